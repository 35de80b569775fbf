"""YAML 1.2 with places: what a file says, and where it says it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import Place, SpecError
from launcher.files import dialect
from launcher.files import document as files_document

PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), PLAIN
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=12,
)


def parsed(text: str) -> Any:
    document = files_document.parse(text, "job.yaml")
    assert document.problems == []
    return document.data


def refused(text: str) -> list[str]:
    try:
        problems = files_document.parse(text, "job.yaml").problems
    except SpecError as error:
        problems = error.problems
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("48:00:00", "48:00:00"),  # 172800 in YAML 1.1
        ("1e-4", 1e-4),  # text in YAML 1.1
        ("3.0e-4", 3e-4),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", 1000),
        ("2024-01-01", "2024-01-01"),
        (".inf", float("inf")),
        ("null", None),
        ("~", None),
        ("", None),
        ("'null'", "null"),
        ("!!str 5", "5"),
        (r'"\ud83d\ude00"', "😀"),
    ],
)
def test_scalars_are_yaml_1_2(text: str, value: object) -> None:
    found = parsed(f"key: {text}\n")["key"]
    assert found == value
    assert isinstance(found, type(value))


@pytest.mark.parametrize("text", ["007", "1.50", "1e-4", "0x1F", "+5", "1_000", ".inf"])
def test_numbers_know_how_they_were_written(text: str) -> None:
    number = parsed(f"a: {{b: [{text}]}}")["a"]["b"][0]
    assert (str(number), f"{number}", number.written) == (text, text, text)


def test_numbers_are_numbers_in_json() -> None:
    data = parsed("a: [007, 1.50, 1e5, 1_000]")
    assert json.dumps(data) == '{"a": [7, 1.5, 100000.0, 1000]}'


@pytest.mark.parametrize("text", [f"0x{'f' * 4000}", f"1{'0' * 400}", f"-1{'0' * 400}"])
def test_numbers_that_nothing_can_count_with_are_refused(text: str) -> None:
    (problem,) = refused(f"a: {text}")
    assert "is too large a number; quote it" in problem


def test_an_anchor_that_is_used_twice_is_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert parsed("a: &x 1\nb: &x 2\nc: *x\n") == {"a": 1, "b": 2, "c": 2}
    assert not recwarn.list


@pytest.mark.parametrize("text", ["[" * 450 + "]" * 450, "{a: " * 300 + "1" + "}" * 300])
def test_depth_that_nothing_can_write_is_refused(text: str) -> None:
    (problem,) = refused(f"a: {text}")
    assert "brackets are nested too deeply" in problem


def test_depth_is_refused_where_it_is_too_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after reading on, which takes seconds: each bracket is compared with all that are open."""
    scanner, seen = dialect._Scanner, list[Any]()
    save = scanner.save_possible_simple_key

    def seen_and_saved(self: Any) -> None:
        seen.append(self)
        save(self)

    monkeypatch.setattr(scanner, "save_possible_simple_key", seen_and_saved)
    assert refused("a: " + "[" * 3000 + "]" * 3000) == [
        "job.yaml:1:104: brackets are nested too deeply; write it flatter"
    ]
    assert len(seen) < 110
    assert parsed('a: "' + "[" * 3000 + '"')["a"] == "[" * 3000, "text is no brackets"


def test_a_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("a: 1\n",))
    writer.start()
    reader = files_document.Reader()
    first = reader.read(path, "pipe")
    writer.join()
    first.data["a"] = 2
    assert reader.read(path, "pipe").data == {"a": 1}


@given(st.dictionaries(PLAIN, VALUES, min_size=1, max_size=4).filter(lambda made: "<<" not in str(made)))
def test_what_json_writes_is_read_back(data: dict[str, Any]) -> None:
    assert parsed(json.dumps(data)) == data


def test_places() -> None:
    document = files_document.parse("name: a\nbatch:\n  micro: 1\n  more: [1, {x: 2}]\n", "job.yaml")
    assert document.places[("name",)] == Place("job.yaml", 1, 1)
    assert document.places[("batch", "micro")] == Place("job.yaml", 3, 3)
    assert document.places[("batch", "more", 1, "x")] == Place("job.yaml", 4, 14)
    assert document.place(("batch", "absent", "deeper")) == Place("job.yaml", 2, 1)
    assert document.place(("absent",)) == Place("job.yaml", 1, 1)


def test_all_duplicates_and_tags_are_said_at_once() -> None:
    assert refused("a: 1\nb: {c: 1, c: 2}\na: !x 3\nd: !!set {e}\n") == [
        "job.yaml:2:11: duplicate key 'c'; it is already on line 2",
        "job.yaml:3:1: duplicate key 'a'; it is already on line 1",
        "job.yaml:3:4: the tag !x has no meaning here; remove it, or quote the value",
        "job.yaml:4:4: the tag !!set has no meaning here; remove it, or quote the value",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (r'a: "x\0y"', "job.yaml:1:4: no value can hold a NUL character; take it out"),
        (r'a: "\ud83d"', "job.yaml:1:4: half a character cannot be written; use \\U and eight digits"),
        (r'"a\0": 1', "job.yaml:1:1: a key must be a plain word; quote it if it has brackets"),
        ("? [a]\n: 1", "job.yaml:1:3: a key must be a plain word; quote it if it has brackets"),
        ("a: {<<: 1}", "job.yaml:1:5: YAML 1.2 has no merge key `<<`; write the keys out"),
    ],
)
def test_refused(text: str, message: str) -> None:
    assert refused(text) == [message]


def test_aliases_are_written_out() -> None:
    assert parsed("a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        data = files_document.parse(text, "job.yaml").data
    except SpecError:
        data = {}
    assert isinstance(data, dict)


@given(st.binary(max_size=60))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        problems = []
        assert isinstance(files_document.read(path).data, dict)
    except SpecError as error:
        problems = error.problems
    assert all(problem.place and problem.place.source == str(path) for problem in problems)


def test_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbfname: \xc3\xa9\n")
    document = files_document.read(tmp_path / "job.yaml", "shown")
    assert document.data == {"name": "é"}
    assert document.places[("name",)] == Place("shown", 1, 1)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(SpecError, match="this is larger than 4,194,304 bytes"):
        files_document.read(Path("/dev/zero"))


def test_aliases_do_not_multiply_text() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 100)}]\n"
    with pytest.raises(SpecError, match="more than 4,194,304 characters; use fewer aliases"):
        files_document.parse(text, "job.yaml")


@pytest.mark.parametrize("text", ["x,", "\n", "\n- a", "[[],"])
def test_a_file_of_very_many_values_is_not_read(text: str) -> None:
    with pytest.raises(SpecError, match="more than 100,000 values; put data into files of their own"):
        files_document.parse(text * 200_000, "job.yaml")


def test_a_tag_at_the_top_leaves_nothing() -> None:
    document = files_document.parse("--- !x\na: 1\n", "job.yaml")
    assert document.data == {}
    assert [str(problem) for problem in document.problems] == [
        "job.yaml:1:5: the tag !x has no meaning here; remove it, or quote the value"
    ]

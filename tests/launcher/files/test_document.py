"""YAML 1.2 with places: what a file says, where it says it, and what --set changes."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from launcher.errors import Place, SpecError
from launcher.files import document as files_document

if TYPE_CHECKING:
    from pathlib import Path

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
    return files_document.parse(text, "job.yaml").data


def refused(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        files_document.parse(text, "job.yaml")
    return [str(problem) for problem in caught.value.problems]


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
    assert parsed(f"a: {{b: [{text}]}}")["a"]["b"][0].written == text


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
        data = parsed(text)
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


# --set


def changed(text: str, *settings: str) -> files_document.Document:
    document = files_document.parse(text, "job.yaml")
    for setting in settings:
        files_document.override(document, setting)
    return document


@pytest.mark.parametrize(
    ("setting", "data"),
    [
        ("a=2", {"a": 2, "b": {"c": 1}}),
        ("b.c=2", {"a": 1, "b": {"c": 2}}),
        ("b.d=x y", {"a": 1, "b": {"c": 1, "d": "x y"}}),
        ("b={d: [1, 2]}", {"a": 1, "b": {"d": [1, 2]}}),
        ("new.deep.er=true", {"a": 1, "b": {"c": 1}, "new": {"deep": {"er": True}}}),
        ("a=", {"a": "", "b": {"c": 1}}),
        ("a=null", {"a": None, "b": {"c": 1}}),
        ("a='2'", {"a": "2", "b": {"c": 1}}),
        ("a=k=v=w", {"a": "k=v=w", "b": {"c": 1}}),
        ("a=1e-4", {"a": 1e-4, "b": {"c": 1}}),
        ("a=[{'': null, ':0': null}]", {"a": [{"": None, ":0": None}], "b": {"c": 1}}),
    ],
)
def test_set(setting: str, data: dict[str, Any]) -> None:
    document = changed("a: 1\nb: {c: 1}\n", setting)
    assert document.data == data
    key = tuple(setting.partition("=")[0].split("."))
    assert document.place(key) == Place(f"--set {setting}")


def test_set_below_a_null() -> None:
    assert changed("a:\n", "a.b=1").data == {"a": {"b": 1}}


def test_the_last_set_wins() -> None:
    assert changed("a: 1\n", "a=2", "a=3").data == {"a": 3}


def test_a_set_value_leaves_no_place_of_the_old_one() -> None:
    document = changed("b: {c: 1.50}\n", "b={c: 2}")
    assert document.place(("b", "c")) == Place("--set b={c: 2}")
    assert document.data["b"]["c"].written == "2"


@given(VALUES)
@example([{"": None, ":0": None}])  # ruamel writes the key `:0` without quotes and does not read it back
def test_set_reads_what_yaml_writes(value: Any) -> None:
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width, yaml.allow_unicode = True, 10**6, False
    yaml.dump([value], out)
    text = out.getvalue().strip()
    try:
        readable = yaml.load(text) == [value]
    except YAMLError:
        readable = False
    if readable and "\n" not in text and "<<" not in text:
        assert changed("a: 1\n", f"a={text}").data == {"a": [value]}

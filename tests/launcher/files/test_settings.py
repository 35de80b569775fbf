"""--set: what it changes, how its keys are written, and where its mistakes are."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from launcher.errors import Place, SpecError
from launcher.files import document as files_document
from launcher.files import settings
from tests.launcher.files.test_document import VALUES


def changed(text: str, *words: str) -> files_document.Document:
    document = files_document.parse(text, "job.yaml")
    for word in words:
        settings.apply(document, settings.parse(word))
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
    ],
)
def test_set(setting: str, data: dict[str, Any]) -> None:
    document = changed("a: 1\nb: {c: 1}\n", setting)
    assert document.data == data
    key = tuple(setting.partition("=")[0].split("."))
    assert document.place(key) == Place(f"--set {setting}")


@pytest.mark.parametrize(
    "word",
    ["env.TOKEN=s3cret", "cluster.env.A=s3cret", "sft.env.A=s3cret", "checkpoint.mirror=s3://me:s3cret@b/x"],
)
def test_what_may_be_a_secret_is_not_said_again(word: str) -> None:
    assert str(settings.parse(word).places[()]) == f"--set {word.partition('=')[0]}"


def test_set_below_a_null() -> None:
    assert changed("a:\n", "a.b=1").data == {"a": {"b": 1}}


def test_the_last_set_wins() -> None:
    assert changed("a: 1\n", "a=2", "a=3").data == {"a": 3}


def test_a_set_value_leaves_no_place_of_the_old_one() -> None:
    document = changed("b: {c: 1.50}\n", "b={c: 2}")
    assert document.place(("b", "c")) == Place("--set b={c: 2}")
    assert document.data["b"]["c"].written == "2"


@example("?0")
@example({"?": "??", "?a": ["?-", "?"]})
@example({"": None, ":0": None, ":": ":a", "::": [":", "::b"]})
@example([{":0": ":1"}, ":2", {"a:": "b:"}])
@given(VALUES)
def test_set_reads_what_yaml_writes(value: Any) -> None:
    out = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style, writer.width, writer.allow_unicode = True, 10**6, False
    writer.dump([value], out)
    text = out.getvalue().strip()
    if "\n" not in text and "<<" not in text:
        assert changed("a: 1\n", f"a={text}").data == {"a": [value]}


def problems(text: str, *words: str) -> list[str]:
    return [str(problem) for problem in changed(text, *words).problems]


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("a.b", ("a", "b")),
        ('mounts."/a.b"', ("mounts", "/a.b")),
        ("mounts.'/a.b'.host", ("mounts", "/a.b", "host")),
        (r"labels.example\.com/team", ("labels", "example.com/team")),
        ('"a=b".c', ("a=b", "c")),
        ('a"b', ('a"b',)),
        ("", ()),
        (".", ()),
        ("a.", ()),
        (".a", ()),
        ("a..b", ()),
        (".".join("a" * 990), ()),
    ],
)
def test_key_path(path: str, keys: tuple[str, ...]) -> None:
    assert settings.key_path(path) == keys


@given(st.lists(st.text("ab.=/\\' \n-", min_size=1, max_size=6), min_size=1, max_size=4))
def test_any_key_can_be_quoted(keys: list[str]) -> None:
    word = ".".join(f'"{key}"' for key in keys) + "=1"
    assert settings.parse(word).keys == tuple(keys)


def test_everything_below_a_key_that_is_not_there_has_its_place() -> None:
    document = changed("a: 1\n", "batsh.micro.deep=2")
    assert {
        document.place(path) for path in [("batsh",), ("batsh", "micro"), ("batsh", "micro", "deep")]
    } == {Place("--set batsh.micro.deep=2")}


def test_a_path_through_a_value_is_a_problem() -> None:
    assert problems("a: 1\n", "a.b=1") == ["--set a.b=1: a is 1, not a mapping; set a as a whole"]


@pytest.mark.parametrize("word", ["nodes", "=4", "a..b=1", "cluster.=3"])
def test_no_key_or_no_value(word: str) -> None:
    with pytest.raises(SpecError, match=r"expected key\.path=value"):
        settings.parse(word)

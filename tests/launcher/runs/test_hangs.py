"""Verdicts in a run folder: the newest, whatever else lies there, and those that come from elsewhere."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from launcher.runs import hangs

if TYPE_CHECKING:
    from pathlib import Path


def leave(folder: Path, name: str, text: str, seconds: int = 0) -> None:
    file = folder / "stacks" / name / "verdict.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    os.utime(file, (seconds, seconds))


def test_the_newest(tmp_path: Path) -> None:
    assert hangs.newest(tmp_path) is None
    leave(tmp_path, "7-1", '{"verdict": "old"}', 10)
    leave(tmp_path, "7-0", '{"verdict": "new"}', 20)
    assert hangs.newest(tmp_path) == (tmp_path / "stacks" / "7-0", {"verdict": "new"})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"verdict": 3}', "[" * 10000, '{"verdict": "x", "time": NaN}']
)
def test_what_is_none(tmp_path: Path, text: str) -> None:
    leave(tmp_path, "7-1", text)
    assert hangs.newest(tmp_path) is None


def test_the_last_hang_is_none_that_was_asked_for(tmp_path: Path) -> None:
    assert hangs.last(tmp_path) is None
    said = {"verdict": "rank 1 sleeps", "rank": 1, "host": "b", "of_host": True, "time": 5.5}
    leave(tmp_path, "7-0", json.dumps({**said, "cause": "stall"}), 10)
    leave(tmp_path, "7-1", json.dumps({**said, "verdict": "all wait", "cause": "asked"}), 20)
    assert hangs.last(tmp_path) == hangs.Hang(
        "rank 1 sleeps", 1, "b", True, 5.5, str(tmp_path / "stacks" / "7-0")
    )
    leave(tmp_path, "7-2", '{"verdict": "old", "cause": "stall"}', 30)
    assert hangs.last(tmp_path) == hangs.Hang("old", -1, "", False, 0.0, str(tmp_path / "stacks" / "7-2"))
    leave(tmp_path, "7-3", '{"verdict": "broken", "cause": "stall", "rank": [], "time": "x"}', 40)
    assert hangs.last(tmp_path) is None


def test_what_came_is_kept_once(tmp_path: Path) -> None:
    for words in ("first", "second"):
        hangs.keep(tmp_path, {"name": "0-1", "verdict": words})
    assert json.loads((tmp_path / "stacks/0-1/verdict.json").read_text())["verdict"] == "first"


@pytest.mark.parametrize("verdict", [{}, {"name": ""}, {"name": "../../x"}, {"name": "a/b"}])
def test_a_name_leads_nowhere_else(tmp_path: Path, verdict: dict[str, Any]) -> None:
    hangs.keep(tmp_path, verdict)
    assert not list(tmp_path.iterdir())

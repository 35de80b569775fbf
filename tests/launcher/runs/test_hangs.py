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


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"verdict": 3}', "[" * 10000])
def test_what_is_none(tmp_path: Path, text: str) -> None:
    leave(tmp_path, "7-1", text)
    assert hangs.newest(tmp_path) is None


def test_what_came_is_kept_once(tmp_path: Path) -> None:
    for words in ("first", "second"):
        hangs.keep(tmp_path, {"name": "0-1", "verdict": words})
    assert json.loads((tmp_path / "stacks/0-1/verdict.json").read_text())["verdict"] == "first"


@pytest.mark.parametrize("verdict", [{}, {"name": ""}, {"name": "../../x"}, {"name": "a/b"}])
def test_a_name_leads_nowhere_else(tmp_path: Path, verdict: dict[str, Any]) -> None:
    hangs.keep(tmp_path, verdict)
    assert not list(tmp_path.iterdir())

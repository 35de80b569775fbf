"""Ranks start in the code that came with the run, and import from it before anything of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import carried
import pytest
from ending import Stop

from launcher import ROOT


def test_nothing_changes_without_code() -> None:
    here = Path.cwd()
    assert carried.enter(None, {"A": "1"}) == {"A": "1"}
    assert Path.cwd() == here


def test_their_modules_go_before_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    variables = carried.enter(tmp_path, {"PYTHONPATH": "/theirs"})
    assert Path.cwd() == tmp_path
    assert variables["PYTHONPATH"] == f"{tmp_path}:{ROOT}/docker:/theirs"


def test_a_command_imports_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert carried.enter(tmp_path, {}, alone=True)["PYTHONPATH"] == str(tmp_path)


def test_code_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="cannot be entered: No such file"):
        carried.enter(tmp_path / "absent", {})


def test_the_node_entry_starts_ranks_there(tmp_path: Path) -> None:
    code = tmp_path / "it's code"
    (code / "sub").mkdir(parents=True)
    (code / "logs.py").write_text("who = 'theirs'")  # a name that a module of ours has
    (code / "sub/train.py").write_text("import os, logs, ending; print(logs.who, os.getcwd())")
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\n")
    words = ["--hostfile", "hostfile", "--run", "a", "--folder", "run", "--code", str(code)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "docker/node.py"), *words, "--", f"{code}/sub/train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"theirs {code}\n" in (tmp_path / "run/logs/rank-0.log").read_text()

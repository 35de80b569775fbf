"""A shell beside a rank has the rank's variables and folder, from the live process and from nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from launcher import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = ROOT / "docker" / "rank_shell.py"
WEIRD = "a'b\"c $HOME `id` $(id)\nsecond line"


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Path]:
    """Two ranks of a run in `tmp_path`, and one of another run."""
    started = []
    for rank, folder in ((0, tmp_path), (1, tmp_path), (0, tmp_path / "other")):
        folder.mkdir(exist_ok=True)
        env = {"PATH": os.environ["PATH"], "RANK": str(rank), "RUN_DIR": str(folder), "WEIRD": WEIRD}
        words = [sys.executable, "-c", "print(flush=True); input()"]
        started.append(
            subprocess.Popen(words, env=env, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
    for process in started:
        assert process.stdout
        process.stdout.readline()
    yield tmp_path
    for process in started:
        process.kill()
        process.communicate()


def shell(folder: str, rank: int, typed: str = "", *more: str) -> subprocess.CompletedProcess[str]:
    """The program as the launcher starts it: as text, with no file of its own."""
    words = [sys.executable, "-c", PROGRAM.read_text(), f"--folder={folder}", f"--rank={rank}", *more]
    return subprocess.run(words, input=typed, capture_output=True, text=True, timeout=60)


def test_variables_and_folder_are_the_ranks(ranks: Path) -> None:
    done = shell(str(ranks), 1, 'printf %s "$RANK $WEIRD"; pwd\nexit 7\n')
    assert done.returncode == 7
    assert done.stdout == f"1 {WEIRD}{ranks}\n"
    assert done.stderr.startswith("rank 1 on ")


def test_the_submitters_own_variables_are_not_there(ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_SHELL", "1")
    assert shell(str(ranks), 0, "env\n").stdout.count("OF_THE_SHELL") == 0


def test_of_two_runs_the_one_that_is_asked_for(ranks: Path) -> None:
    assert shell(str(ranks / "other"), 0, "pwd\n").stdout == f"{ranks / 'other'}\n"
    assert shell(str(ranks / "other"), 1).returncode == 1


def test_a_pod_has_one_run(ranks: Path) -> None:
    assert shell("", 1, "echo $RANK\n").stdout == "1\n"


def test_a_rank_that_is_not_there_is_said(ranks: Path) -> None:
    done = shell(str(ranks), 5)
    assert done.returncode == 1
    assert "rank 5 does not run on" in done.stderr
    assert (shell(str(ranks), 5, "", "--probe").stderr, shell(str(ranks), 1, "", "--probe").returncode) == (
        "",
        0,
    )


def test_what_it_started_is_younger_than_a_rank(tmp_path: Path) -> None:
    """Its data loaders have its variables and another folder."""
    (tmp_path / "elsewhere").mkdir()
    text = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'],"
        " stdin=subprocess.PIPE, cwd='elsewhere'); print(flush=True); input(); p.kill()"
    )
    env = {"RANK": "0", "RUN_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", text], env=env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert shell(str(tmp_path), 0, "pwd\n").stdout == f"{tmp_path}\n"
        process.communicate(b"\n")

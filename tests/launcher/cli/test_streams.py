"""The exit code of a command is its own, whatever becomes of what it says on stderr."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import ROOT
from launcher.cli import streams

COMMANDS = [
    ("status nothing", 5),
    ("plan nothing.yaml", 2),
    ("plan", 2),
    ("nonsense", 2),
    ("plan jobs/quickstart.yaml --plot a.gif", 2),
    ("plan jobs/llama-7b.yaml --set batch.global=13", 3),
    ("plan jobs/quickstart.yaml --set workload=./own.py --set args={}", 0),  # says a note
]

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def code(words: str, redirection: str, folder: Path) -> tuple[int, str]:
    """The exit code and stdout of a command line under bash."""
    script = f'"$0" -m launcher {words} {redirection}'
    env = {**ENVIRONMENT, "LAUNCHER_RUNS": str(folder)}
    done = subprocess.run(
        ["bash", "-c", script, sys.executable], cwd=ROOT, env=env, capture_output=True, text=True
    )
    return done.returncode, done.stdout


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.mark.parametrize(
    "words", ["--help", "--version", "status --help", "schema job", "env", "plan jobs/quickstart.yaml"]
)
@FULL
def test_a_stdout_that_is_full(words: str, tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "LAUNCHER_RUNS": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m launcher {words} >/dev/full', sys.executable],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "error: output: No space left on device\n")


@pytest.mark.parametrize(("words", "wanted"), COMMANDS[:4])
@FULL
def test_a_stderr_that_is_full_and_has_no_buffer(
    words: str, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRONMENT, "PYTHONUNBUFFERED", "1")
    assert code(words, "2>/dev/full", tmp_path)[0] == wanted


@pytest.mark.parametrize(("words", "wanted"), COMMANDS)
@FULL
def test_a_stderr_that_is_full(words: str, wanted: int, tmp_path: Path) -> None:
    expected = code(words, "2>/dev/null", tmp_path)
    assert expected[0] == wanted
    assert code(words, "2>/dev/full", tmp_path) == expected


@pytest.mark.parametrize(("words", "wanted"), COMMANDS)
def test_a_stderr_that_is_closed(words: str, wanted: int, tmp_path: Path) -> None:
    """What belongs on stderr does not come out on stdout instead."""
    assert code(words, "2>&-", tmp_path) == code(words, "2>/dev/null", tmp_path)
    assert code(words, "2>&-", tmp_path)[0] == wanted


@pytest.mark.parametrize(("words", "wanted"), COMMANDS[:4])
def test_a_reader_that_has_gone(words: str, wanted: int, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    env = {"PATH": "/usr/bin:/bin", "LAUNCHER_RUNS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *words.split()], cwd=ROOT, env=env, stderr=writer
    )
    os.close(writer)
    assert done.returncode == wanted


@pytest.mark.parametrize("terminal", [True, False])
def test_how_far_it_is_is_a_line_of_a_terminal_alone(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with streams.line() as told:
        told("step 4\x1b[2J")
        told("step 5" + "." * 99)
    said = capsys.readouterr()
    assert said.out == ""
    lines = ["", "step 4\\x1b[2J", ("step 5" + "." * 99)[:29], ""]
    assert said.err == ("\r\x1b[K".join(lines) if terminal else "")

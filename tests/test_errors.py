"""Every bad input has one exact message: tests/errors/*.case, and what no text file can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from launcher.cli import main
from launcher.errors import Problem, SpecError
from tests import golden

if TYPE_CHECKING:
    from pathlib import Path

CASES = golden.cases()


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.stem)
def test_message(case: Path) -> None:
    text = CASES[case]
    assert text.exists(), "no golden file: run `make golden` and review it"
    said = golden.outcome(case)
    assert said == text.read_text(encoding="utf-8")
    assert "Traceback" not in said
    assert not said.startswith(("exit 0", "exit 70"))


def test_no_message_without_a_case() -> None:
    assert set(golden.ERRORS.glob("*.txt")) == set(CASES.values())


def test_a_problem_is_told_once() -> None:
    one, other = Problem("no hosts", "name some"), Problem("no hosts", "name others")
    assert SpecError(one, other, one).problems == [one, other]


def test_there_are_enough() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01\x02", "this is not text"),
        (b"name: \xff\xfe", "this is not text"),
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
    ],
)
def test_not_a_text_file(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    assert main.main(["plan", str(path)]) == 2
    assert f"{path}: {message}" in capsys.readouterr().err


def test_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", str(tmp_path)]) == 2
    assert "this is a directory" in capsys.readouterr().err


def test_runs_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "file"))
    assert main.main(["local", "jobs/quickstart.yaml"]) == 2
    err = capsys.readouterr().err
    assert "cannot be written" in err
    assert "LAUNCHER_RUNS" in err

"""The fuzzer finds what it is there to find, and lets nothing out of its sandbox."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.cli import main as cli_main
from tests.fuzz import commands, sandbox, shrinking, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.verdicts import Finding

pytestmark = pytest.mark.heavy  # each input is a process


def judged(
    monkeypatch: pytest.MonkeyPatch, program: Callable[[], object], *words: str
) -> tuple[Finding | None, sandbox.Outcome]:
    """The verdict on a launcher that does nothing but call `program`, and returns what it returns."""
    monkeypatch.setattr(cli_main, "main", lambda _: program())
    given = commands.Input(words or ("plan", "job.yaml"), {"job.yaml": b"name: a\n"})
    outcome = sandbox.run(given)
    return verdicts.judge(given, outcome), outcome


def key(monkeypatch: pytest.MonkeyPatch, program: Callable[[], object], *words: str) -> str:
    found, _ = judged(monkeypatch, program, *words)
    return found.key if found else ""


def test_the_same_seed_and_number_are_the_same_input() -> None:
    inputs = [commands.make(1, number) for number in range(600)]
    assert inputs == [commands.make(1, number) for number in range(600)]
    assert len({given.words for given in inputs}) > 380
    assert {given.words[0] for given in inputs if given.words} > verdicts.LOOKING - {"diff", "doctor"}


def test_an_orderly_end_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        print("error: no", file=sys.stderr)
        return 2

    assert key(monkeypatch, refuse) == ""
    assert key(monkeypatch, lambda: 0) == ""


def test_a_traceback_is_found_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    found, outcome = judged(monkeypatch, lambda: int("x"))
    assert found
    assert found.key.startswith("ValueError, exit 1")
    assert outcome.code == 1


def test_a_hang_is_ended_and_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def turn() -> None:
        while True:
            pass

    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    assert "hang" in key(monkeypatch, turn)


def test_waiting_for_ever_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait() -> int:
        try:
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    found, outcome = judged(monkeypatch, wait)
    assert found is None
    assert outcome.seconds < 5


def test_memory_without_end_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "MemoryError" in key(monkeypatch, lambda: bytearray(2**30))

    monkeypatch.setattr(sandbox, "MEMORY", 100 * 2**20)
    assert "MemoryError" in key(monkeypatch, lambda: bytearray(400 * 2**20))
    assert key(monkeypatch, lambda: len(b"x" * (20 * 2**20)) * 0) == ""


def test_nothing_is_started_signalled_or_written_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marks = tmp_path / "mark"

    def tried(action: Callable[[], object]) -> Callable[[], int]:
        def program() -> int:
            try:
                action()
            except OSError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
            return 0

        return program

    with subprocess.Popen(["sleep", "60"]) as process:
        assert "kill" in key(monkeypatch, tried(lambda: os.kill(process.pid, 9)))
        assert process.poll() is None
        process.kill()
    assert "outside" in key(monkeypatch, tried(lambda: marks.write_text("x")))
    assert "outside" in key(monkeypatch, tried(lambda: Path("/tmp/../etc/x").mkdir()))
    assert "start" in key(monkeypatch, tried(lambda: os.posix_spawn("/bin/true", ["true"], {})))
    assert "submits" in key(monkeypatch, tried(lambda: subprocess.Popen(["bash"])), "local", "--dry-run")
    assert not marks.exists()


@pytest.mark.parametrize(
    ("code", "text", "words", "expected"),
    [
        (7, "error: x", ("plan",), "exit 7"),
        (2, "", ("plan",), "without a word"),
        (2, "<class 'int'>", ("plan",), "Python's words"),
        (2, "x" * 30_000, ("plan",), "as long as its input"),
        (1, "error: x", ("plan",), "exit 1"),
    ],
)
def test_the_contract_of_exit_codes_and_words(
    code: int, text: str, words: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say() -> int:
        print(text, end="", file=sys.stderr)
        return code

    assert expected in key(monkeypatch, say, *words)


def test_output_for_programs_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def printing(text: str) -> Callable[[], int]:
        def program() -> int:
            print(text)
            return 0

        return program

    assert key(monkeypatch, printing('{"a": 1}'), "plan", "--json") == ""
    assert "cannot be read" in key(monkeypatch, printing('{"a": NaN}'), "plan", "--json")
    assert "cannot be read" in key(monkeypatch, printing("a: b: c"), "kubernetes", "--dry-run")


def test_what_stays_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(name: str, code: int) -> Callable[[], int]:
        def program() -> int:
            Path(name).write_text("x")
            print("error: x", file=sys.stderr)
            return code

        return program

    assert "left behind" in key(monkeypatch, leave("runs.txt", 2), "local", "job.yaml")
    assert "left behind" in key(monkeypatch, leave("stray", 0), "plan", "job.yaml")
    assert "half-written" in key(monkeypatch, leave(".job.sh.draft", 0), "local", "job.yaml")
    assert key(monkeypatch, leave("x.html", 0), "plan", "job.yaml", "--html", "x.html") == ""


def test_a_finding_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(words: list[str]) -> int:
        return int("x") if "--bad" in words and "two" in Path("job.yaml").read_text() else 0

    monkeypatch.setattr(cli_main, "main", main)
    files = {"job.yaml": b"one: 1\ntwo: 2\nthree: 3\n", "other.yaml": b"x"}
    given = commands.Input(("plan", "a", "--bad", "b"), files, environment={"A": "b"})
    found = verdicts.judge(given, sandbox.run(given))
    assert found
    small = shrinking.smallest(given, found.key)
    assert (small.words, small.files, small.environment) == (("plan", "--bad"), {"job.yaml": b"two: 2\n"}, {})
    assert shrinking.text(small) == "$ launcher plan --bad\n--- job.yaml\ntwo: 2\n"

"""`launcher stacks` asks inside the job, and says why where it gets no answer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import PlanError, SubmitError
from launcher.runs import hangs
from launcher.submission import shell, stacks

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.runs.record import Run

ANSWER = {"name": "0-1", "verdict": "all 2 ranks wait", "absent": [], "ranks": []}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    class Known:
        id, folder = "job-1", tmp_path

    return Known()


def beside(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(shell, "words", lambda *_, **__: list(words))


def test_the_shell_asks_and_waits(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side is the node entry's: docker/watch.py, which test_hang.py starts for real."""
    told = tmp_path / "it's here"
    told.mkdir()
    entry = (
        "print('welcome to {the} site', flush=True)  # as a TaskProlog does\n"
        "import pathlib, subprocess, sys, time; told = pathlib.Path(sys.argv[1])\n"
        '(told / \'answer\').write_text(\'{"name": "0-0", "verdict": "old"}\')\n'
        "env = {'PATH': '/usr/bin:/bin', 'LAUNCHER_HEARTBEAT': str(told)}\n"
        "shell = subprocess.Popen(['sh'], stdin=sys.stdin, env=env)\n"
        "while not (told / 'asked').exists(): time.sleep(0.01)\n"
        f"(told / '.a').write_text({json.dumps(ANSWER)!r}); (told / '.a').rename(told / 'answer')\n"
        "sys.exit(shell.wait())"
    )
    beside(monkeypatch, sys.executable, "-c", entry, str(told))
    assert stacks.take(run) == ANSWER
    assert json.loads((tmp_path / "stacks/0-1/verdict.json").read_text()) == ANSWER


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sh",), "the node entry of job-1 gave no stacks: rank 0's host has no folder of records"),
        (("true",), "the node entry of job-1 gave no stacks: it said nothing"),
        (("/no/such/program",), "/no/such/program did not start: No such file or directory"),
    ],
)
def test_why_there_are_none(
    words: tuple[str, ...], message: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAUNCHER_HEARTBEAT", raising=False)
    beside(monkeypatch, *words)
    with pytest.raises(SubmitError, match=message):
        stacks.take(run)


def test_a_run_that_has_ended_names_what_was_taken(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: Any, **__: Any) -> list[str]:
        raise shell.EndedError("job-1 has ended")

    monkeypatch.setattr(shell, "words", ended)
    with pytest.raises(PlanError, match=r"job-1 has ended: .*; none were taken while it ran"):
        stacks.take(run)
    hangs.keep(tmp_path, ANSWER)
    with pytest.raises(PlanError) as refused:
        stacks.take(run)
    assert str(refused.value).endswith(f"; those taken when it hung are in {tmp_path / 'stacks' / '0-1'}")

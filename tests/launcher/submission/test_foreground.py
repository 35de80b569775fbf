"""`local --debug` in a terminal: whoever types answers breakpoint() of rank 0; other ranks write to their logs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import ROOT
from tests.docker import entries
from tests.terminals import Terminal

pytestmark = pytest.mark.heavy  # every test has a real run
PROGRAM = """
import os, sys
rank = int(os.environ["RANK"])
print("rank", rank, "terminal", sys.stdin.isatty(), sys.stdout.isatty(), sys.stderr.isatty(), flush=True)
if rank == 0:
    secret = 41
    breakpoint()
    print("after", secret + 1, os.environ.get("LAUNCHER_TERMINAL", "no variable left"), flush=True)
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONBREAKPOINT"}
    return {**clean, "LAUNCHER_RUNS": str(tmp_path / "it's here"), "HOME": str(tmp_path), "TERM": "dumb"}


def words(program: Path, *more: str) -> list[str]:
    settings = (f"workload={program}", "args={}", *more)
    given = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "launcher", "local", "jobs/quickstart.yaml", "--debug", *given]


def folder(env: dict[str, str]) -> Path:
    (run,) = Path(env["LAUNCHER_RUNS"]).iterdir()
    return run


def test_a_breakpoint_of_rank_0(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PROGRAM)
    terminal = Terminal(words(tmp_path / "own.py"), env, ROOT)
    terminal.wait_for("rank 0 terminal True True True")
    terminal.wait_for(r"\(Pdb\)")
    terminal.type("p 'the value is', secret")
    terminal.wait_for(r"\('the value is', 41\)")
    terminal.type("c")
    terminal.wait_for("after 42 no variable left")
    assert terminal.ended() == 0
    assert "ended with 0" in terminal.seen
    log = (folder(env) / "logs" / "rank-1.log").read_text()
    assert "rank 1 terminal False False False" in log
    assert (folder(env) / "exit_code").read_text() == "0\n"


def test_leaving_the_debugger_ends_the_run(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        PROGRAM.replace("if rank == 0:", "if rank: import time; time.sleep(600)\nelse:")
    )
    terminal = Terminal(words(tmp_path / "own.py"), env, ROOT)
    terminal.wait_for(r"\(Pdb\)")
    terminal.type("import os; os._exit(7)")
    assert terminal.ended() == 1
    assert "ended with 7" in terminal.seen


def test_ctrl_c_is_rank_0s(env: dict[str, str], tmp_path: Path) -> None:
    text = "import os, time\nif os.environ['RANK'] == '0':\n  try:\n    print('ready', flush=True); time.sleep(600)\n"
    (tmp_path / "own.py").write_text(
        f"{text}  except KeyboardInterrupt:\n    print('stopped here', flush=True)\n"
    )
    terminal = Terminal(words(tmp_path / "own.py"), env, ROOT)
    terminal.wait_for("ready")
    os.write(terminal.screen, b"\x03")
    terminal.wait_for("stopped here")
    assert terminal.ended() == 0


BEFORE_ITS_RANKS = """
from pathlib import Path
from launcher.runs.record import Run
from launcher.submission import foreground
run = Run("slow", "local", "", Path.cwd(), 0.0, 1, 1, {})
foreground.follow(run, foreground.script(run))
"""


def test_ctrl_c_before_rank_0_has_the_terminal_ends_the_run(env: dict[str, str], tmp_path: Path) -> None:
    script = (
        "trap 'echo told >told; exit 143' TERM\necho starts >&201\nsleep 600 200<&- 201>&- 202>&- & wait\n"
    )
    (tmp_path / "job.sh").write_text(script)
    python = [sys.executable, "-c", BEFORE_ITS_RANKS]
    terminal = Terminal(python, {**env, "PYTHONPATH": str(ROOT)}, tmp_path)
    terminal.wait_for("starts")
    os.write(terminal.screen, b"\x03")
    terminal.ended()
    assert "KeyboardInterrupt" in terminal.seen
    assert (tmp_path / "told").exists()
    assert (tmp_path / "cancelled").exists()


def test_cancel_ends_a_run_whose_rank_does_not_leave(env: dict[str, str], tmp_path: Path) -> None:
    text = "import os, signal, time\nsignal.signal(signal.SIGTERM, lambda *_: print('heard', flush=True))\n"
    (tmp_path / "own.py").write_text(
        f"{text}print('process', os.getpid(), flush=True)\nwhile True: time.sleep(60)\n"
    )
    terminal = Terminal(words(tmp_path / "own.py"), env, ROOT)
    rank = int(terminal.wait_for("process [0-9]+").split()[1])
    run = folder(env).name
    cancelled = subprocess.run(
        [sys.executable, "-m", "launcher", "cancel", run],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert cancelled.returncode == 0, cancelled.stderr
    assert terminal.ended() == 1
    assert "heard" in terminal.seen
    assert "ended with 137" in terminal.seen
    assert not entries.lives(rank)


def test_without_a_terminal_commands_come_from_stdin(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PROGRAM)
    done = subprocess.run(
        words(tmp_path / "own.py"),
        cwd=ROOT,
        env=env,
        input="c\n",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "rank 0 terminal False False False" in done.stdout
    assert "after 42" in done.stdout


def test_a_script_that_does_not_start_leaves_nothing(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(PROGRAM)
    (tmp_path / "bin").mkdir()  # without bash
    done = subprocess.run(
        words(tmp_path / "own.py"),
        cwd=ROOT,
        env={**env, "PATH": str(tmp_path / "bin")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 4, done.stderr
    assert "bash did not start: No such file or directory" in done.stderr
    assert list(Path(env["LAUNCHER_RUNS"]).iterdir()) == []


NOT_RECORDED = """
from pathlib import Path
from launcher.runs import record
from launcher.submission import foreground

def full(*_):
    raise OSError(28, "No space left on device")

record.record = full
run = record.Run("lost", "local", "", Path.cwd(), 0.0, 1, 1, {})
process = foreground.script(run)
print(process.pid, flush=True)
foreground.follow(run, process)
"""


def test_a_run_that_cannot_be_recorded_does_not_go_on(env: dict[str, str], tmp_path: Path) -> None:
    # one process: a bash that did not pass the signal on would leave what it had started already
    (tmp_path / "job.sh").write_text("exec sleep 600\n")
    python = [sys.executable, "-c", NOT_RECORDED]
    python_path = {**env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(python, cwd=tmp_path, env=python_path, capture_output=True, text=True, timeout=120)
    assert "No space left on device" in done.stderr
    assert not entries.lives(int(done.stdout))

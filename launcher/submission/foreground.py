"""A run on this machine in the foreground: rank 0 gets this process's stdin, stdout and stderr.

Owns the descriptors that are handed on (docker/terminal.py takes them) and the terminal's way back to this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import SubmitError
from launcher.runs import logs, record
from launcher.schedulers import local
from launcher.submission import submit

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run

_VARIABLE = "LAUNCHER_TERMINAL"
_FIRST = 200  # of three descriptors, above all that this process has open


def start(plan: Plan, announce: Callable[[Run], None]) -> tuple[Run, subprocess.Popen[bytes]]:
    """Start `plan` in a folder of its own, after `announce`. Returns the run, not yet recorded, and its script.

    Raises what rendering raises, and SubmitError where the script does not start, with nothing left behind.
    """
    prepared = submit.prepare(local, "local", plan)
    try:
        run = record.prepared(Path(prepared.folder), "local")
        announce(run)
        return run, script(run)
    except BaseException:
        record.abandon(prepared)
        raise


def script(run: Run) -> subprocess.Popen[bytes]:
    """The run's script with this terminal; a Ctrl-C waits for `follow` from now on. Raises SubmitError."""
    for number in range(3):
        with contextlib.suppress(OSError):  # one that is closed stays closed
            os.dup2(number, _FIRST + number)
    # a Ctrl-C that comes before the run is recorded waits until it can be ended
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(
            ["bash", f"{run.folder}/job.sh"],
            env={**os.environ, _VARIABLE: str(_FIRST)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=range(_FIRST, _FIRST + 3),
            preexec_fn=_lead,  # `cancel` ends a group; Ctrl-C is this process's, then rank 0's
        )
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        raise SubmitError(f"bash did not start: {error.strerror}") from None


def follow(run: Run, process: subprocess.Popen[bytes]) -> int:
    """Record `run`, whose script is `process`, and wait for its end.

    Returns its exit code; Ctrl-C, where rank 0 does not take it, and whatever else stops this process end the run.
    """
    native_id = local.native_id(process.pid)
    try:
        record.record(run, native_id, time.time())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        process.wait()
    except BaseException:
        local.cancel(run._replace(native_id=native_id))
        raise
    finally:
        _take_terminal_back()
    code = logs.exit_code(run.folder)
    ended = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return ended if code is None else code


def _lead() -> None:
    """In the process that becomes bash: a group of its own, and Ctrl-C as ever."""
    os.setpgrp()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _take_terminal_back() -> None:
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it would stop a background job that does this
    with contextlib.suppress(OSError):
        os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, before)

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
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run

_VARIABLE = "LAUNCHER_TERMINAL"
_FIRST = 200  # of three descriptors, above all that this process has open


def prepare(plan: Plan) -> Run:
    """The run of `plan` in its own folder, not yet started. Raises what rendering raises, with nothing left behind."""
    prepared = submit.prepare(local, "local", plan)
    return record.prepared(Path(prepared.folder), "local")


def follow(run: Run) -> int:
    """Start `run` and wait for its end. Returns its exit code; Ctrl-C, where rank 0 does not take it, ends the run."""
    for number in range(3):
        with contextlib.suppress(OSError):  # one that is closed stays closed
            os.dup2(number, _FIRST + number)
    # a Ctrl-C that comes before the run is recorded waits until it can be ended
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
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
    started = record.record(run, local.native_id(process.pid), time.time())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        process.wait()
    except KeyboardInterrupt:
        local.cancel(started)
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

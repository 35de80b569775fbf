"""The terminal of whoever debugs a run on this machine: it becomes rank 0's, so that `breakpoint()` works.

Owns the variable in which the launcher hands on three descriptors by the first of them: stdin, stdout and stderr.
Where they are a terminal, rank 0 is its foreground job, as a shell's command is: Ctrl-C goes to it alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

VARIABLE = "LAUNCHER_TERMINAL"


def streams(rank: str) -> dict[str, Any] | None:
    """Popen's arguments for a rank that has the terminal; None for every other one."""
    first = _first(rank)
    if first is None:
        return None
    return {"stdin": first, "stdout": first + 1, "stderr": first + 2}


def take(rank: str) -> None:
    """In the process that becomes the rank: be the terminal's foreground job."""
    if _first(rank) is not None:
        os.setpgid(0, 0)
        give(0, os.getpid())
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # there is no shell that could continue it


def give(descriptor: int, group: int) -> None:
    """Make process group `group` the foreground job of a terminal; nothing where `descriptor` is none of ours."""
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # it would stop a background job that does this
    with contextlib.suppress(OSError):
        os.tcsetpgrp(descriptor, group)
    signal.signal(signal.SIGTTOU, before)


def _first(rank: str) -> int | None:
    named = os.environ.get(VARIABLE, "")
    return int(named) if rank == "0" and named.isdecimal() else None

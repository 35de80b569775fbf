"""How a run ends: the exit codes that mean something, and the file that keeps the first failure.

Codes follow BSD's sysexits where one fits: https://man.openbsd.org/sysexits.3
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BAD_INPUT = 64  # EX_USAGE: the hostfile or the command line
ABSENT = 69  # EX_UNAVAILABLE: a host never came
LOST = 70  # EX_SOFTWARE: a host was lost
NOT_WRITABLE = 73  # EX_CANTCREAT: the run folder
SAVED = 75  # EX_TEMPFAIL: saved, run me again


class Stop(Exception):
    """Ends the node entry with a message and an exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Outcome:
    """The run's first failure as a line, `code rank host unix-time`; rank -1 is the node entry itself.

    On a file system that all hosts share the first writer wins, so the line names the cause and not what followed.
    """

    path: Path

    def write(self, code: int, rank: int, host: str = "") -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{code} {rank} {host or socket.gethostname()} {time.time():.3f}\n")

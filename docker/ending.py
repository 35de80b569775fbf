"""How a run ends: the exit codes that mean something, the first failure, and the file that keeps it.

The codes and what they mean are in exit_codes.json, which the launcher reads too. They follow BSD's sysexits where one
fits: https://man.openbsd.org/sysexits.3
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_CODES = json.loads(Path(__file__).with_name("exit_codes.json").read_text(encoding="ascii"))
BAD_INPUT: int = _CODES["BAD_INPUT"]["code"]
NOT_FINITE: int = _CODES["NOT_FINITE"]["code"]
ABSENT: int = _CODES["ABSENT"]["code"]
LOST: int = _CODES["LOST"]["code"]
NOT_STARTED: int = _CODES["NOT_STARTED"]["code"]
NOT_WRITABLE: int = _CODES["NOT_WRITABLE"]["code"]
NO_CHECKPOINT: int = _CODES["NO_CHECKPOINT"]["code"]
SAVED: int = _CODES["SAVED"]["code"]
STALLED: int = _CODES["STALLED"]["code"]
NOT_CURED: int = _CODES["NOT_CURED"]["code"]
UNFIT: int = _CODES["UNFIT"]["code"]
CORRUPTED: int = _CODES["CORRUPTED"]["code"]

# Codes of ranks that were told to end and saved nothing: by Ctrl-C, scancel or kubectl delete.
TOLD = frozenset(128 + number for number in (signal.SIGTERM, signal.SIGINT))

# code → whether a restart may help: restarts.py
RESTARTS: dict[int, str] = {entry["code"]: entry["restart"] for entry in _CODES.values()}


class Stop(Exception):
    """Ends the node entry with a message and an exit code; `host` is whose fault it is, where that is known."""

    def __init__(self, code: int, message: str, host: str = "") -> None:
        super().__init__(message)
        self.code, self.host = code, host


@dataclass(frozen=True)
class Failure:
    """What ended the run: a rank of `host` with an exit code other than 0, or (rank -1) the host itself."""

    code: int
    rank: int
    host: str

    def __str__(self) -> str:
        if self.code == STALLED:
            return "the run has stalled" + (
                f"; the others wait for rank {self.rank} on {self.host}" if self.rank >= 0 else ""
            )
        if self.rank < 0:
            return f"lost {self.host}" if self.code == LOST else f"{self.host} ended with {self.code}"
        return f"rank {self.rank} on {self.host} ended with {self.code}"


@dataclass(frozen=True)
class Outcome:
    """How the run ended, as a line: `code rank host unix-time`; rank -1 is the node entry itself.

    Code 0 is written by the first host, which hears from all others: without it no run has succeeded.

    On a file system that all hosts share the first writer wins, so the line names the cause and not what followed;
    which is the first does not depend on the hosts' clocks.
    """

    path: Path

    def write(self, failure: Failure) -> None:
        with contextlib.suppress(OSError):
            self._write(f"{failure.code} {failure.rank} {failure.host}")

    def succeed(self, host: str) -> None:
        """Write that every host's ranks ended with 0. Raises Stop when it cannot be written."""
        try:
            self._write(f"0 -1 {host}")
        except FileExistsError:  # a host failed after its ranks were done
            return
        except OSError as error:
            raise Stop(NOT_WRITABLE, f"{self.path} cannot be written: {error.strerror}") from None

    def _write(self, words: str) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{words} {time.time():.3f}\n")

    def forget(self) -> None:
        """Remove the line of an earlier try with the same number: Kubernetes starts pods again under one."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

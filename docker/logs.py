"""What the ranks of a host write, kept: a log file a rank, and a copy on stdout.

Owns the bytes; the processes are ranks.py's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import IO, TYPE_CHECKING

from ending import NOT_STARTED, Stop

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ranks import Ranks

_STDOUT = threading.Lock()
_TAIL = 2**16


class Log:
    """A rank's log, rank-N.log; to stdout go whole lines, of rank 0 (echo "0") or of all with a prefix ("all")."""

    def __init__(self, folder: Path, rank: int, echo: str) -> None:
        """Raises OSError when the file cannot be opened."""
        self._file = os.open(folder / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._prefix = f"[{rank}] ".encode() if echo == "all" else b""
        self._echoed = echo == "all" or rank == 0
        self._lock = threading.Lock()
        self._inside_line = False
        self._waiting = b""  # added while the rank is inside a line
        self.copier: threading.Thread | None = None
        self.count = 0  # bytes that the rank wrote

    def copy(self, source: IO[bytes]) -> None:
        """Byte for byte to the file, whole lines to stdout. A full disk loses lines, never the rank."""
        pending = b""
        while chunk := os.read(source.fileno(), 65536):
            self.write(chunk)
            self.count += len(chunk)
            if not self._echoed:
                continue
            whole, newline, rest = (pending + chunk).rpartition(b"\n")
            if len(rest) > 65536:  # no memory is large enough for a progress bar without line ends
                whole, newline, rest = whole + newline + rest, b"\n", b""
            pending = rest
            _print(whole + newline, self._prefix)
        if pending:
            _print(pending + b"\n", self._prefix)
        source.close()

    def add(self, lines: bytes) -> None:
        """Whole lines that the rank did not write itself, between two of its own."""
        with self._lock:
            self._waiting += lines
            if not self._inside_line:
                self._add_waiting()
        if self._echoed:
            _print(lines, self._prefix)

    def close(self) -> None:
        with self._lock:
            if self._waiting:
                _write(self._file, b"\n")
                self._add_waiting()
            os.close(self._file)
            self._file = -1  # a copier that is still there must not write into the next file

    def write(self, chunk: bytes) -> None:
        """What the rank writes."""
        with self._lock:
            whole, newline, rest = chunk.rpartition(b"\n")
            if newline:
                _write(self._file, whole + newline)
                self._add_waiting()
            _write(self._file, rest)
            self._inside_line = bool(rest) or (self._inside_line and not newline)

    def _add_waiting(self) -> None:
        _write(self._file, self._waiting)
        self._waiting = b""


def keep(ranks: Ranks, folder: Path, echo: str, attempt: str) -> dict[int, Log]:
    """Copy each rank's output to its log in `folder`; returns rank → log. Raises Stop when one cannot be opened."""
    kept = {}
    for pid, process in ranks.processes.items():
        rank = ranks.numbers[pid]
        try:
            log = kept[rank] = Log(folder, rank, echo)
        except OSError as error:
            raise Stop(NOT_STARTED, f"the ranks cannot be started: {error}") from None
        log.write(f"--- attempt {attempt}, host {socket.gethostname()}, pid {pid}\n".encode())
        if process.stdout is not None:  # else it is on the terminal: terminal.py
            log.copier = threading.Thread(target=log.copy, args=(process.stdout,), daemon=True)
            log.copier.start()
    return kept


def tail(folder: Path, rank: int) -> bytes:
    """The end of what a rank wrote in its last attempt. Raises OSError."""
    with (folder / f"rank-{rank}.log").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        return file.read().rpartition(b"--- attempt ")[2]


def _print(lines: bytes, prefix: bytes) -> None:
    if lines and prefix:
        lines = prefix + lines[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
    with _STDOUT:
        _write(1, lines)


def _write(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]


def finish(kept: Iterable[Log], limit: float = 5.0) -> None:
    """Wait for the rest of the output, at most `limit` seconds: a process that cannot be killed never closes it."""
    end = time.monotonic() + limit
    for log in kept:
        if log.copier:
            log.copier.join(max(0.0, end - time.monotonic()))

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
    from pathlib import Path

    from ranks import Ranks

_STDOUT = threading.Lock()


def keep(ranks: Ranks, folder: Path, echo: str, attempt: str) -> list[threading.Thread]:
    """Copy each rank's output to `folder`/rank-N.log; to stdout too, rank 0's ("0") or all, with a prefix ("all").

    Returns the threads that copy; each ends with its rank's output. Raises Stop when a log cannot be opened.
    """
    copiers = []
    for pid, process in ranks.processes.items():
        rank = ranks.numbers[pid]
        path = folder / f"rank-{rank}.log"
        try:
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise Stop(NOT_STARTED, f"the ranks cannot be started: {error}") from None
        _write(log, f"--- attempt {attempt}, host {socket.gethostname()}, pid {pid}\n".encode())
        if process.stdout is None:  # it is on the terminal: terminal.py
            os.close(log)
            continue
        prefix = f"[{rank}] ".encode() if echo == "all" else b""
        wanted = echo == "all" or rank == 0
        copier = threading.Thread(target=_copy, args=(process.stdout, log, prefix, wanted), daemon=True)
        copier.start()
        copiers.append(copier)
    return copiers


def _copy(source: IO[bytes], log: int, prefix: bytes, wanted: bool) -> None:
    """Byte for byte to `log`, whole lines to stdout. A full disk loses lines, never the rank."""
    pending = b""
    while chunk := os.read(source.fileno(), 65536):
        _write(log, chunk)
        if not wanted:
            continue
        whole, newline, rest = (pending + chunk).rpartition(b"\n")
        if len(rest) > 65536:  # no memory is large enough for a progress bar without line ends
            whole, newline, rest = whole + newline + rest, b"\n", b""
        pending = rest
        _print(whole + newline, prefix)
    if pending:
        _print(pending + b"\n", prefix)
    source.close()
    os.close(log)


def _print(lines: bytes, prefix: bytes) -> None:
    if lines and prefix:
        lines = prefix + lines[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
    with _STDOUT:
        _write(1, lines)


def _write(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(descriptor, data) :]


def finish(copiers: list[threading.Thread], limit: float = 5.0) -> None:
    """Wait for the rest of the output, at most `limit` seconds: a process that cannot be killed never closes it."""
    end = time.monotonic() + limit
    for copier in copiers:
        copier.join(max(0.0, end - time.monotonic()))

"""The processes below one, as Linux tells of them: who they are, what they have handlers for, and their end.

Owns /proc; which of them are ranks is ranks.py's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIBC = ctypes.CDLL(None)
_TRIES = 50  # a process that starts others while it is killed is outrun soon


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # reaped, and its end is on the way
        os.kill(pid, number)


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler of its own for the signal."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        mask = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
        return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def catching(pid: int, number: int, below: bool = False) -> set[int]:
    """`pid` if it has a handler; else, with `below`, the first on each way down the tree that have one."""
    if catches(pid, number):
        return {pid}
    if not below:
        return set()
    return {found for child in children(pid) for found in catching(child, number, below=True)}


def children(pid: int) -> Iterator[int]:
    """The processes that `pid` started, or adopted."""
    # Either may end between two looks.
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (task / "children").read_text().split())


def adopt() -> None:
    """Make this process the parent of what its descendants leave behind: a launcher's ranks, when it dies."""
    _LIBC.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def kill_below(pid: int) -> None:
    """SIGKILL to all that run below `pid`."""
    for _ in range(_TRIES):
        there = [one for one in below(pid) if state(one) not in {"", "Z", "X"}]
        for one in there:
            kill(one, signal.SIGKILL)
        if not there:
            return


def below(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from below(child)


def state(pid: int) -> str:
    """The letter that proc(5) has for it: R S D T t Z X; '' when it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    return ""


def name(pid: int) -> str:
    """The name of its program, fifteen characters at most; '' when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""


def seconds(pid: int) -> float:
    """Processor time that it has used; 0 when it is gone."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def waits_in(pid: int) -> str:
    """The kernel's function that the process waits in; '' when it waits in none, or that is kept from this user."""
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/wchan").read_text(errors="replace")
        return "" if name == "0" else name
    return ""


def moved(pid: int) -> int:
    """Bytes that the process has read and written, and read from disks; 0 where that is not told (proc_pid_io(5))."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        values = {name: int(value) for name, _, value in (line.partition(":") for line in lines)}
        return sum(values.get(name, 0) for name in ("rchar", "wchar", "read_bytes"))
    return 0


def has_open(pid: int, file: str) -> bool:
    """Whether the process has a file open."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()) == file:
                    return True
    return False

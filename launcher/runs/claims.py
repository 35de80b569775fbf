"""Who writes or reads in a folder of a data cache, by the claims that workloads keep there (docker/workloads/claims.py,
readers.py).

Owns what a claim says from outside: its owner lives on this host, or has touched the claim of late. A claim is a JSON
object with `kernel`, which numbers processes, `process` and `started`; its owner touches it every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

SUFFIXES = (".claim", ".reader")  # of who writes, of who reads
VOID = 60.0  # seconds without a touch, after which nobody works there
_MOST = 2**16  # bytes


def held(folder: Path) -> Path | None:
    """A claim in `folder` whose owner is at work, or reads; None where nobody is."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIXES))
    except OSError:
        return None
    return next((folder / name for name in names if _is_held(folder / name)), None)


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        owner = _owner(file.read(_MOST))
    if owner.get("kernel") and owner["kernel"] == _kernel():
        started = _started(owner.get("process"))
        return started is not None and started == owner.get("started")
    return (
        abs(time.time() - status.st_mtime) < VOID
    )  # of another host, whose processes are not seen from here


def _owner(text: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        owner = json.loads(text)
        return owner if isinstance(owner, dict) else {}
    return {}


def _kernel() -> str:
    """This boot of this kernel, and the space of process numbers: a container has its own."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(process: object) -> str | None:
    """When a process started, in the kernel's ticks (proc_pid_stat(5)); None where there is none."""
    if not isinstance(process, int):
        return None
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None

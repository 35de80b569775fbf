"""Who works on what, said by files in a folder that processes of several hosts and jobs share.

A claim is a file that its owner touches while it works. One is void when its process is gone, which is seen at once on
the owner's own host, or when nobody has touched it for a minute, by the clock of who waits for it. What is claimed must
do no harm when it is done twice: a claim saves work, and is no lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEAT = 5.0  # seconds between touches
VOID = 60.0  # seconds without one
SUFFIX = ".claim"


@dataclass
class Claim:
    """What this process has claimed."""

    path: Path
    touched: float = field(default_factory=time.monotonic)

    def beat(self, done: int = 0) -> None:
        """Touch the claim if it is time; `done` is told to who looks (bytes)."""
        if time.monotonic() - self.touched >= BEAT:
            self.touched = time.monotonic()
            with contextlib.suppress(OSError):  # taken over, or the whole folder removed
                descriptor = os.open(self.path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW)
                with os.fdopen(descriptor, "w") as file:
                    json.dump({**_self(), "done": done}, file)

    def release(self) -> None:
        self.path.unlink(missing_ok=True)


class Watch:
    """Claims as this process has seen them change."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float]] = {}  # time of change, and when this process saw it first

    def claim(self, path: Path) -> Claim | None:
        """Claim the file's name if nobody works on it; None when somebody does."""
        if path.exists() and not self._is_void(path):
            return None
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w") as file:
            json.dump({**_self(), "done": 0}, file)
        return Claim(path)

    def _is_void(self, path: Path) -> bool:
        """Whether a claim's owner is gone; it is then removed."""
        try:
            changed, owner = path.stat().st_mtime_ns, read(path)
        except FileNotFoundError:
            return True
        now = time.monotonic()
        before, since = self._seen.setdefault(path, (changed, now))
        if before != changed:
            self._seen[path] = changed, now
            return False
        if not is_gone(owner) and now - since < VOID:
            return False
        del self._seen[path]
        path.unlink(missing_ok=True)
        return True


def read(path: Path) -> dict[str, Any]:
    """Who holds a claim (host, process) and how far its work is (`done`); empty while it is being written."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _self() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "kernel": _kernel(), "process": pid, "started": _started(pid)}


def is_gone(owner: dict[str, Any]) -> bool:
    """Whether a claim's owner, as `read` gives it, was a process of this host that has ended, or is this one."""
    if not owner or owner.get("kernel") != _kernel():
        return False  # that cannot be seen from here
    return owner["process"] == os.getpid() or _started(int(owner["process"])) != owner.get("started")


def _kernel() -> str:
    """What numbers processes: this boot of this kernel, and the space of process numbers (a container has its own)."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _started(pid: int) -> str | None:
    """When a process was started, in the kernel's clock (proc_pid_stat(5), field 22); None when there is none."""
    try:
        words = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]

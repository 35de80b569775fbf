"""How many processes are worth starting on this host."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: "MICROSECONDS PERIOD", or "max PERIOD"


def usable() -> int:
    """The cores that this process may use: those it is bound to, fewer where its container has a quota; at least 1."""
    bound = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = map(int, QUOTA.read_text(encoding="ascii").split())  # of "max" it stays `bound`
        return max(1, min(bound, -(-quota // period)))
    return bound

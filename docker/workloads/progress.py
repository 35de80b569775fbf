"""How far tokenizing is: a line a minute and an event of metrics.jsonl, or a line that changes on a terminal.

Owns what is told and how often, and the limit of the wait. Progress is read from the folder, so that it counts what
other hosts and jobs do too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from ending import BAD_INPUT

from workloads import claims
from workloads.session import Stop

if TYPE_CHECKING:
    from workloads.metrics import Log
    from workloads.tokenizing import Work

EVERY, ON_A_TERMINAL = 60.0, 1.0  # seconds
PREPARE = "prepare the text before the GPUs are allocated (workload: prepare), or raise --data-wait"


class Late(Stop):
    """The tokens are not ready in time; what is there of them stays."""


class Progress:
    """Tells how far some work is."""

    def __init__(self, log: Log | None, minutes: float | None) -> None:
        """`log` is None where another rank tells; `minutes` is the limit, None for none."""
        self._log, self._minutes = log, minutes
        self._began = self._told = time.monotonic()
        self._before: int | None = None  # bytes that were done when it began
        self._drawn = 0
        self._every = ON_A_TERMINAL if sys.stderr.isatty() else EVERY

    def look(self, work: Work) -> None:
        """Tell if it is time to. Raises Late after the limit."""
        now = time.monotonic()
        if self._minutes is not None and now - self._began > 60 * self._minutes:
            raise Late(
                f"the tokens of --data were not ready after {self._minutes:g} minutes; those that are stay in "
                f"{work.folder}: {PREPARE}",
                BAD_INPUT,
            )
        if self._log is None or (self._before is not None and now - self._told < self._every):
            return
        done, total = bytes_done(work), sum(shard.size for shard in work.shards)
        if self._before is None:
            self._before = done
            return
        self._told = now
        rate = (done - self._before) / (now - self._began)
        left = (total - done) / rate if rate > 0 else None
        line = (
            f"tokenizing: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB ({done / total:.0%}), {rate / 1e6:.2f} MB/s, "
            + ("" if left is None else f"{clock(left)} left")
        )
        if self._every == ON_A_TERMINAL:
            print(f"\r{line.ljust(self._drawn)}", end="", file=sys.stderr, flush=True)
            self._drawn = len(line)
        else:
            self._log.say(line)
        self._log.event(
            "tokenizing", 0, bytes=done, total_bytes=total, bytes_per_second=rate, seconds_left=left
        )

    def close(self) -> None:
        """Leave the terminal's line behind."""
        if self._drawn:
            print(f"\r{' ' * self._drawn}\r", end="", file=sys.stderr, flush=True)


def bytes_done(work: Work) -> int:
    """The bytes of source whose tokens are there or in work, by anybody."""
    there = {entry.name for entry in os.scandir(work.folder)}
    done = 0
    for shard in work.shards:
        claim = f"{shard.name}{claims.SUFFIX}"
        if f"{shard.name}.idx" in there:
            done += shard.size
        elif claim in there:
            with contextlib.suppress(OSError, TypeError, ValueError):
                done += min(shard.size, int(claims.read(work.folder / claim).get("done", 0)))
    return done


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"

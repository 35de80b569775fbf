"""Looks at this host's ranks every few seconds, and tells the supervisor when none of them advances any more.

Owns the look, in a thread of its own; what a silence means is pace.py's, what is done then hang.py's. It also finds the
file `asked` beside the ranks' records, with which `launcher stacks` asks for their stacks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import heartbeat
import processes
import stacks
from pace import LIMITS, Pace, Signs, phase
from ranks import Asked, Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from logs import Log
    from ranks import Event, Ranks

ASKED, ANSWER = "asked", "answer"  # files in the folder of the ranks' records


@dataclass
class Watch:
    """`judges`: whether silence counts at all. `wish`: seconds instead of those of limits.json."""

    ranks: Ranks
    logs: Mapping[int, Log]
    folder: Path
    put: Callable[[Event], None]
    judges: bool = True
    wish: float | None = None
    state: str = "moves"
    lived: float = (
        0.0  # seconds that this process has run: it stands still with its ranks when a job is suspended
    )
    beats: dict[int, heartbeat.Beat | None] = field(default_factory=dict)
    _paces: dict[int, Pace] = field(default_factory=dict)
    _looked: float | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return min(2.0, max(0.1, (self.wish or 60.0) / 10))

    def follow(self) -> None:
        """Look until `finish`."""

        def look() -> None:
            while not self._ended.wait(self.interval):
                self.look(time.monotonic())

        threading.Thread(target=look, daemon=True).start()

    def finish(self) -> None:
        self._ended.set()

    def look(self, now: float) -> None:
        """One look, at a time of CLOCK_MONOTONIC."""
        if self._looked is not None:
            self.lived += min(now - self._looked, 3 * self.interval)
        self._looked = now
        alive = [(pid, self.ranks.numbers[pid]) for pid in self.ranks.alive]
        for pid, rank in alive:
            self._paces.setdefault(rank, Pace(self.wish)).see(self._signs(pid, rank), self.lived)
        quiet = self.judges and all(self._paces[rank].overdue(self.lived) for _, rank in alive)
        state = "done" if not alive else "quiet" if quiet else "moves"
        if state != self.state:
            self.state = state
            self.put(Quiet(state))
        with contextlib.suppress(OSError):
            (self.folder / ASKED).unlink()
            self.put(Asked())

    def _signs(self, pid: int, rank: int) -> Signs:
        beat = self.beats[rank] = self._beat(rank)
        log = self.logs.get(rank)
        files = self._moved(pid) if "files" in LIMITS[phase(beat)]["signs"] else 0
        return Signs(beat, log.count if log else 0, files)

    def _moved(self, pid: int) -> int:
        """Bytes of files and pipes, of what the rank has started too: a script may do nothing else.

        Its stacks are no progress.
        """
        return sum(
            processes.moved(one) - stacks.size(self.folder, one) for one in (pid, *processes.below(pid))
        )

    def _beat(self, rank: int) -> heartbeat.Beat | None:
        """The rank's record; of ranks that a process of the host has started itself the newest one."""
        if not self.ranks.start_ranks:
            return heartbeat.read(heartbeat.path(self.folder, rank))
        found = filter(None, map(heartbeat.read, self.folder.glob("rank-*")))
        return max(found, key=lambda beat: (beat.at or 0.0, beat.step), default=None)

    @property
    def silence(self) -> float:
        """Seconds since the newest sign of life of any rank here."""
        return min((pace.silent(self.lived) for pace in self._paces.values()), default=0.0)

    @property
    def limit(self) -> float:
        """The longest limit that a rank here has passed."""
        return max((pace.limit or 0.0 for pace in self._paces.values()), default=0.0)

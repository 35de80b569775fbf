"""Whether a rank still advances, judged by its own pace.

Owns the judgement, which is pure: what is seen of a rank and when goes in, the seconds that it is overdue come out. The
limits are limits.json: for each phase of heartbeat.py its `seconds`, `times` the slowest recent step where that is
more, and the `signs` of life that count beside a new record: `output` that the rank writes, bytes of `files` that it
reads or writes. `untold` is a program that names no phase: it is judged by its longest silence, and not before its
first sign. CPU time is no sign: a rank that waits for others in NCCL spins.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartbeat import FIRST, LAST, START, STEP

if TYPE_CHECKING:
    from heartbeat import Beat

LIMITS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("limits.json").read_text(encoding="ascii")
)
_STEPPED = {START, FIRST, STEP}  # phases that the end of a step ends; others go on to the phase before
_BY_PACE = (STEP, "untold")  # what `watch.stall` of the job sets


@dataclass(frozen=True)
class Signs:
    """What is seen of a rank: its record, the bytes of its output, and those of files and pipes that it has moved."""

    beat: Beat | None = None
    output: int = 0
    files: int = 0


def phase(beat: Beat | None) -> str:
    """The key of LIMITS that a record belongs to."""
    return beat.phase if beat is not None and beat.phase else "untold"


@dataclass
class Pace:
    """What was seen of one rank. `wish`: seconds instead of those of its steps, None for the table's.

    Times are seconds of any clock that stands still while this host does.
    """

    wish: float | None = None
    signs: Signs = field(default_factory=Signs)
    since: float | None = None  # of the newest sign of life
    slowest: deque[float] = field(default_factory=lambda: deque(maxlen=LAST))
    known: bool = False  # whether there was any sign

    @property
    def phase(self) -> str:
        return phase(self.signs.beat)

    def see(self, signs: Signs, now: float) -> None:
        """Take note of what is there now."""
        before, self.signs = self.signs, signs
        if self.since is None:
            self.since = now
            self.known = signs != Signs()
        elif self._advanced(before):
            self.known = True
            step = self.phase == STEP and before.beat is not None and before.beat.phase in _STEPPED
            if step or self.phase == "untold":
                self.slowest.append(now - self.since)
            self.since = now

    def _advanced(self, before: Signs) -> bool:
        beat, counted = self.signs.beat, LIMITS[self.phase]["signs"]
        return (
            beat != before.beat
            or ("output" in counted and self.signs.output != before.output)
            or ("files" in counted and self.signs.files != before.files)
        )

    @property
    def limit(self) -> float | None:
        """Seconds without a sign that are too many; None: none are."""
        entry = LIMITS[self.phase]
        if entry["seconds"] is None or (self.wish is None and not self.known):
            return None
        if self.wish is not None:
            return self.wish if self.phase in _BY_PACE else max(self.wish, entry["seconds"])
        return float(max(entry["seconds"], entry.get("times", 0) * max(self.slowest, default=0.0)))

    def silent(self, now: float) -> float:
        """Seconds since the newest sign of life."""
        return 0.0 if self.since is None else now - self.since

    def overdue(self, now: float) -> bool:
        """Whether the rank has shown no sign for longer than its limit."""
        return self.limit is not None and self.silent(now) > self.limit

"""Which rank is slower than its peers, beyond noise: named with the ratio, and since when.

In synchronous training every rank's step takes as long as the slowest rank's, because they wait for each other. What
differs is the time that a rank needs before it waits: `own` of its heartbeat. Each host sends its ranks' to the first
one, {"type": "pace", "ranks": {rank: Pace}}, which compares them window by window; `compare` is pure.

The first host appends lines to steps.jsonl in the run folder, the further apart the longer the run is:

    {"time": …, "step": …, "seconds": a step's, "own": [a rank's own seconds, …]}     by rank, null where unknown
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from events import Events
    from links import Message, Peers

FILE = "steps.jsonl"
WINDOW = 8  # steps that are compared together
CONFIRMED = (
    2  # windows one after another in which a rank is slow: a single one may be a page cache or a neighbour
)
RATIO = 1.25  # of the peers' own time, from which a rank is slow
SHARE = 0.05  # of the step's time that it costs, at least: who needs 2 ms instead of 1 delays nobody
NOISE = 4.0  # times what is uncertain
_POLL = 1.0  # seconds
_APART = 5.0, 1 / 200  # seconds between lines of steps.jsonl, and the share of the run's time


class Pace(NamedTuple):
    """A rank's newest steps: the last one's number, median seconds of a step, own seconds of WINDOW steps."""

    step: int
    seconds: float
    own: tuple[float, ...]


class Slow(NamedTuple):
    """A rank that is slow: its own time over its peers', and the first step of which that was seen."""

    rank: int
    ratio: float
    since: int


def compare(paces: Mapping[int, Pace]) -> dict[int, float]:
    """Rank → ratio of its own time to the median of its peers', for those that are slow in this window.

    A rank is slow whose median differs from its peers' by RATIO, by SHARE of a step, and by NOISE times what is
    uncertain: the standard error of its median or of a peer's, or what the peers differ among themselves, whichever is
    largest. When all are slow, none is.
    """
    medians = {rank: statistics.median(pace.own) for rank, pace in paces.items() if pace.own}
    errors = {rank: _error(paces[rank].own) for rank in medians}
    slow = {}
    # no peers' median is less than this, whoever is left out: most ranks need no closer look
    least = RATIO * sorted(medians.values())[(len(medians) - 2) // 2] if len(medians) > 1 else math.inf
    for rank, own in medians.items():
        if own < least:
            continue
        others = [other for other in medians if other != rank]
        usual = statistics.median(medians[other] for other in others)
        unsure = max(
            errors[rank],
            statistics.median(errors[other] for other in others),
            _deviation([medians[other] for other in others]),
        )
        more = own - usual
        if own >= RATIO * usual and more >= max(SHARE * paces[rank].seconds, NOISE * unsure):
            slow[rank] = own / max(usual, 1e-6)
    return slow


def _error(values: Sequence[float]) -> float:
    """The standard error of a median: sqrt(π/2) σ / sqrt(n), as of a normal distribution."""
    return float(math.sqrt(math.pi / 2) * _deviation(values) / math.sqrt(len(values)))


def _deviation(values: Sequence[float]) -> float:
    """σ by the median absolute deviation, which a few outliers do not move."""
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - middle) for value in values)


@dataclass
class Judge:
    """Who is slow now, over the windows of one attempt. All ranks' paces are given to `look`."""

    suspects: dict[int, list[int]] = field(default_factory=dict)  # rank → [windows, first step]
    slow: dict[int, Slow] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)  # rank → its step in the last window

    def look(self, paces: Mapping[int, Pace]) -> tuple[list[Slow], list[Slow]]:
        """(those that became slow, those that are no longer) once each rank has done WINDOW new steps; else none."""
        if not paces or any(p.step - self.seen.get(rank, 0) < WINDOW for rank, p in paces.items()):
            return [], []
        self.seen = {rank: pace.step for rank, pace in paces.items()}
        ratios = compare(paces)
        came, went = [], []
        for rank, ratio in ratios.items():
            windows = self.suspects.setdefault(rank, [0, paces[rank].step - WINDOW + 1])
            windows[0] += 1
            if windows[0] >= CONFIRMED:
                if rank not in self.slow:
                    came.append(Slow(rank, ratio, windows[1]))
                self.slow[rank] = Slow(rank, ratio, windows[1])
        # of a rank that tells no time of its own, as while it is profiled, nothing new is known
        for rank in [rank for rank in self.suspects if rank not in ratios and paces[rank].own]:
            del self.suspects[rank]
            if rank in self.slow:
                went.append(self.slow.pop(rank))
        return came, went


class Watch:
    """Reads the heartbeats of this host's ranks, and on the first host compares those of all."""

    def __init__(self, folder: str, hosts: Mapping[str, int], index: int, *, peers: Peers) -> None:
        slots = list(hosts.values())[index]
        self._folder, self._peers, self._first = folder, peers, index == 0
        self._mine = range(index * slots, (index + 1) * slots)
        self._hosts = [host for host, number in hosts.items() for _ in range(number)]
        self._paces: dict[int, Pace] = {}
        self._judge, self._lock, self._end = Judge(), threading.Lock(), threading.Event()
        self._began, self._written, self._last = time.monotonic(), 0.0, 0
        self._thread: threading.Thread | None = None

    def start(self, run: Path, run_events: Events, say: Callable[[str], None]) -> None:
        """Watch, in a thread, until `stop`."""
        if self._folder:
            words = (run / FILE, run_events, say)
            self._thread = threading.Thread(target=self._run, args=words, daemon=True)
            self._thread.start()

    def stop(self, say: Callable[[str], None]) -> None:
        """End the thread; say who is slow."""
        self._end.set()
        if self._thread:
            self._thread.join(_POLL)
        for slow in list(self._judge.slow.values()):
            say(self.words(slow))

    def heard(self, message: Message) -> bool:
        """Whether this is what another host says of its ranks."""
        if message.get("type") != "pace":
            return False
        with contextlib.suppress(TypeError, ValueError, AttributeError, KeyError):
            found = {int(rank): _pace(values) for rank, values in message["ranks"].items()}
            with self._lock:
                self._paces |= {rank: pace for rank, pace in found.items() if 0 <= rank < len(self._hosts)}
        return True

    def before(self, other: Callable[[int, Message], None]) -> Callable[[int, Message], None]:
        """What hears messages of other hosts: `heard` first, and what is none of its own `other`."""

        def hear(node: int, message: Message) -> None:
            if not self.heard(message):
                other(node, message)

        return hear

    def words(self, slow: Slow) -> str:
        """Who is slow, for a person."""
        return (
            f"rank {slow.rank} on {self._hosts[slow.rank]} is slow: it needs {slow.ratio:.2f} times as long as its "
            f"peers before it waits for them, since step {slow.since}"
        )

    def _run(self, file: Path, run_events: Events, say: Callable[[str], None]) -> None:
        told: dict[int, int] = {}
        while not self._end.wait(_POLL):
            found = {rank: pace for rank in self._mine if (pace := read(self._folder, rank))}
            new = {rank: pace for rank, pace in found.items() if pace.step - told.get(rank, 0) >= WINDOW}
            told |= {rank: pace.step for rank, pace in new.items()}
            if not self._first:
                if new:
                    self._peers.tell(type="pace", ranks=new)
                continue
            with self._lock:
                self._paces |= new
                paces = dict(self._paces) if len(self._paces) == len(self._hosts) else {}
            self._tell(paces, run_events, say)
            self._write(file, paces)

    def _tell(self, paces: Mapping[int, Pace], run_events: Events, say: Callable[[str], None]) -> None:
        came, went = self._judge.look(paces)
        for slow in came:
            say(self.words(slow))
            ratio = round(slow.ratio, 3)
            run_events.tell("slow", rank=slow.rank, host=self._hosts[slow.rank], ratio=ratio, step=slow.since)
        for slow in went:
            say(f"rank {slow.rank} on {self._hosts[slow.rank]} is not slow any more")
            run_events.tell("not_slow", rank=slow.rank, host=self._hosts[slow.rank])

    def _write(self, file: Path, paces: Mapping[int, Pace]) -> None:
        now, (least, share) = time.monotonic(), _APART
        last = max((pace.step for pace in paces.values()), default=0)
        if last == self._last or now - self._written < max(least, share * (now - self._began)):
            return
        self._written, self._last = now, last
        known = {rank: round(statistics.median(pace.own), 5) for rank, pace in paces.items() if pace.own}
        line = {
            "time": time.time(),
            "step": last,
            "seconds": round(statistics.median(pace.seconds for pace in paces.values()), 5),
            "own": [known.get(rank) for rank in range(len(self._hosts))],
        }
        with contextlib.suppress(OSError), file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")


def read(folder: str, rank: int) -> Pace | None:
    """The pace of a rank by its heartbeat; None where it tells none, or has not done WINDOW steps after its first."""
    beat = heartbeat.read(heartbeat.path(folder, rank))
    if beat is None or len(beat.steps.last) < WINDOW:
        return None
    own = beat.steps.own[-WINDOW:]
    return Pace(beat.step, statistics.median(beat.steps.last[-WINDOW:]), own if all(own) else ())


def _pace(values: Any) -> Pace:
    step, seconds, own = values
    return Pace(int(step), float(seconds), tuple(map(float, own)))

"""How a rank tells its node entry how far it is: its step, what it is doing, and how long its steps take.

Owns the file `<LAUNCHER_HEARTBEAT>/rank-<RANK>`, one a rank, in a folder on the host's own disk that the node entry
makes (0700) and removes. The file is one record of SIZE bytes, written by one pwrite(2) at its begin:

    {"step": 412, "phase": "step", …}      JSON in ASCII, spaces up to byte SIZE - 10
    1c291ca3                               zlib.crc32 of all bytes before it, 8 hex digits, then a newline

A reader that meets half of a new record sees a sum that is wrong, and looks again. The keys, all but `step` optional:

    beat      counts the records of this process            pid   the process
    step      the last step that is done                    phase one of PHASES: what the rank does now; null while a
                                                                  program has named none
    began     the step that this process began after
    since     when that began; CLOCK_MONOTONIC, seconds     at    when the record was written, the same clock
    spent     {phase: seconds} that have ended, by phase
    steps     {"count", "sum", "squares", "last": […], "own": […]} of the steps that this process has done after its
              first one: how many, their seconds and squared seconds added up, and the last LAST of them, the newest at
              the end. `own`: of each the seconds that the rank itself needed before it waited for others, 0 when
              unknown

A program that does not use this module may write `{"step": 412}` and a newline, without padding and sum.

Between two steps a rank looks for the wish to be profiled, which tracing.py describes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")

VARIABLE = "LAUNCHER_HEARTBEAT"
BLAME = "blame"  # a file beside the records: why this host is at fault
SIZE = 1024
LAST = 16
START, LOAD, FIRST, STEP = "start", "load", "first step", "step"
EVALUATE, CHECKPOINT, END, OTHER = (
    "evaluate",
    "checkpoint",
    "end",
    "other",
)  # other: work without steps, as a server's
PHASES = (START, LOAD, FIRST, STEP, EVALUATE, CHECKPOINT, END, OTHER)
_TRIES = 3
_NO_RECORD = (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Steps:
    """Seconds of the steps after the first: number, sum and sum of squares, the last ones, the rank's own part."""

    count: int = 0
    sum: float = 0.0
    squares: float = 0.0
    last: tuple[float, ...] = ()
    own: tuple[float, ...] = ()


@dataclass(frozen=True)
class Beat:
    """A record as it was read. `since` and `at` are seconds of CLOCK_MONOTONIC, None where the rank tells none."""

    step: int
    began: int = 0
    phase: str | None = None
    since: float | None = None
    at: float | None = None
    beat: int = 0
    pid: int = 0
    spent: dict[str, float] = field(default_factory=dict)
    steps: Steps = field(default_factory=Steps)


class Writer:
    """This rank's record. Without a file (no node entry, a full disk) it writes nothing, and nothing fails."""

    def __init__(self, path: Path | None) -> None:
        self._file: int | None = None
        if path is not None:
            with contextlib.suppress(OSError):
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._asked = f"{path}{tracing.ASKED}" if self._file is not None else ""
        self._tracer: tracing.Tracer | None = None
        self._number, self._pid = 0, os.getpid()
        self._began: int | None = None
        self._named = False  # whether the program tells its phases
        self._step, self._phase, self._since = 0, START, time.monotonic()
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self._last: deque[float] = deque(maxlen=LAST)
        self._own: deque[float] = deque(maxlen=LAST)
        self._spent: dict[str, float] = {}

    def phase(self, name: str, step: int | None = None) -> None:
        """From now on the rank does `name`, one of PHASES; `step`: the last one that is done."""
        self._named = True
        if step is not None:
            self._begin(step)
            self._step = step
        self._go_on(name, time.monotonic())
        self._write()

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """What happens inside is `name`; the phase before goes on after it."""
        before = self._phase
        self.phase(name)
        try:
            yield
        finally:
            self.phase(before)

    def alive(self) -> None:
        """The phase goes on: a part of it is done, as a batch of an evaluation is. Not while steps are done."""
        self._write()

    def step(self, number: int, own: float = 0.0) -> None:
        """Step `number` is done, and the next begins. `own`: seconds before this rank waited for the others."""
        self._begin(number - 1)
        now = time.monotonic()
        seconds = now - self._since
        if self._phase == STEP:
            self._count += 1
            self._sum += seconds
            self._squares += seconds * seconds
            self._last.append(round(seconds, 5))
            # a rank that is profiled has more to do than its peers, and is not slow
            self._own.append(0.0 if self._tracer else round(own, 5))
        self._step = number
        self._go_on(STEP, now)
        self._write()
        if self._tracer or os.access(self._asked, os.F_OK):
            self._trace(number)

    def spent(self) -> dict[str, float]:
        """Seconds until now in each phase, the one that goes on included."""
        now = {self._phase: self._spent.get(self._phase, 0.0) + time.monotonic() - self._since}
        return {name: round(seconds, 3) for name, seconds in {**self._spent, **now}.items()}

    def _trace(self, step: int) -> None:
        """Go on with the profile that this rank is wished to take; what that takes is no part of a step."""
        if self._pid != os.getpid():
            return
        self._tracer = self._tracer or tracing.Tracer(Path(self._asked))
        if self._tracer.after(step):
            self._tracer = None
        self._go_on(STEP, time.monotonic())

    def _begin(self, step: int) -> None:
        self._began = step if self._began is None else self._began

    def _go_on(self, name: str, now: float) -> None:
        self._spent[self._phase] = self._spent.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = name, now

    def _write(self) -> None:
        if self._file is None or self._pid != os.getpid():  # a forked child is not the rank
            return
        self._number += 1
        record = {
            "step": self._step,
            "phase": self._phase if self._named else None,
            "began": self._began or 0,
            "since": round(self._since, 4),
            "at": round(time.monotonic(), 4),
            "beat": self._number,
            "pid": self._pid,
            "spent": {name: round(seconds, 3) for name, seconds in self._spent.items()},
            "steps": {
                "count": self._count,
                "sum": round(self._sum, 5),
                "squares": round(self._squares, 7),
                "last": list(self._last),
                "own": list(self._own),
            },
        }
        with contextlib.suppress(OSError):
            os.pwrite(self._file, sealed(record), 0)


def sealed(record: dict[str, Any]) -> bytes:
    """The SIZE bytes of a record."""
    text = json.dumps(record, separators=(",", ":")).encode("ascii").ljust(SIZE - 9)
    return text + b"%08x\n" % zlib.crc32(text)


def path(folder: str | Path, rank: int | str) -> Path:
    """The file of a rank."""
    return Path(folder) / f"rank-{rank}"


@functools.cache
def mine() -> Writer:
    """The writer of the rank that this process is by its environment; one that writes nothing where it is none."""
    folder, rank = os.environ.get(VARIABLE), os.environ.get("RANK", "")
    return Writer(path(folder, rank) if folder and rank.isdecimal() else None)


def told(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates a function of which ranks tell that they are in it: `Writer.during`."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def inner(*args: P.args, **more: P.kwargs) -> T:
            with mine().during(name):
                return function(*args, **more)

        return inner

    return decorate


def read(file: Path) -> Beat | None:
    """The newest record; None where there is none, or it is no record."""
    for _ in range(_TRIES):
        try:
            with file.open("rb") as opened:
                data = opened.read(SIZE)
        except OSError:
            return None
        text, end = data[: SIZE - 9], data[SIZE - 9 :]
        if end and end != b"%08x\n" % zlib.crc32(text):
            continue
        with contextlib.suppress(*_NO_RECORD):
            return _beat(json.loads(text))
    return None


def _beat(record: dict[str, Any]) -> Beat:
    said = record.get("steps", {})
    steps = Steps(
        count=int(said.get("count", 0)),
        sum=float(said.get("sum", 0.0)),
        squares=float(said.get("squares", 0.0)),
        last=tuple(map(float, said.get("last", ())))[-LAST:],
        own=tuple(map(float, said.get("own", ())))[-LAST:],
    )
    return Beat(
        step=int(record["step"]),
        began=int(record.get("began", 0)),
        phase=record["phase"] if record.get("phase") in PHASES else None,
        since=_time(record.get("since")),
        at=_time(record.get("at")),
        beat=int(record.get("beat", 0)),
        pid=int(record.get("pid", 0)),
        spent={str(name): float(seconds) for name, seconds in record.get("spent", {}).items()},
        steps=steps,
    )


def _time(value: Any) -> float | None:
    return None if value is None else float(value)

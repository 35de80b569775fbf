"""What happens to a run, and when: events.jsonl in its folder, told by its first host; standard library alone.

Owns the format below. A line is a JSON object with `event`, `time` (Unix time, seconds) and `attempt`; runs that are
restarted append. Nothing depends on the file: where it cannot be written the run goes on. Unknown keys and events may
be added, and a line that a crash cut off is not JSON. What ranks tell of their steps is metrics.jsonl's.

  allocated   hosts, slots (of all hosts together): since `time` the hosts belong to the run; spare_slots: those of its
              hosts that stay idle
  preflight   all hosts have come, and are checked
  met         all hosts have come, and start
  started     the ranks run
  slow        rank, host, ratio, step: the rank computes longer than its peers since that step (slowness.py)
  not_slow    rank, host: it does not any more
  stalled     seconds: no rank has advanced for so long
  failed      code, rank (-1: the host itself), host: the first failure; the ranks that are left are stopped
  saved       rank, host: a rank has saved and left, to be continued
  ended       code: the run's, of this attempt; by: "slurm" where the job's script tells the end as Slurm counts it,
              which is later, and without a code
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import stacks
from ending import SAVED, Failure, Stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from notify import Notifier

FILE = "events.jsonl"
_WRITING = 2.0  # seconds that the file may take: whoever tells has ranks to end


@dataclass(frozen=True)
class Events:
    """Teller of one attempt. `path` is None on all hosts but the first, whose methods do nothing."""

    path: Path | None = None
    attempt: str = "0"
    listener: Notifier | None = None

    def tell(self, event: str, at: float | None = None, **values: Any) -> None:
        """Append a line; `at` is when it happened, Unix time, if that is not now."""
        if self.path is None:
            return
        line = {"event": event, "time": at or time.time(), "attempt": self.attempt, **values}
        if self.listener:
            self.listener.event(line)
        stacks.within(_WRITING, functools.partial(_append, self.path, line), None)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """The attempt's end is told with the Stop that leaves the context; all is delivered then."""
        try:
            yield
        except Stop as stop:
            self.tell("ended", code=stop.code)
            raise
        finally:
            if self.listener:
                self.listener.finish()

    def failed(self, failure: Failure) -> None:
        """Tell the first failure; of a rank that saved and left, that it did."""
        if failure.code == SAVED:
            self.tell("saved", rank=failure.rank, host=failure.host)
        else:
            self.tell("failed", code=failure.code, rank=failure.rank, host=failure.host)


def of(folder: Path, index: int, attempt: str, listener: Notifier | None = None) -> Events:
    """The teller of host number `index` of the run in `folder`; `listener` hears what it tells."""
    if index:
        return Events()
    if listener:
        listener.start(folder / FILE)
    return Events(folder / FILE, attempt, listener)


def begin(told: Events, hosts: int, slots: int, *, spares: int = 0, since: float | None = None) -> None:
    """Tell that `hosts` with so many `slots` each belong to the run, and as many as `spares` that stay idle.

    `since`: Unix time, where Slurm's own start of the job is that of an earlier attempt.
    """
    idle = {"spare_slots": spares * slots} if spares else {}
    told.tell("allocated", since or allocated(), hosts=hosts, slots=hosts * slots, **idle)


def allocated() -> float:
    """Since when this host belongs to the run: as Slurm says (sbatch(1), SLURM_JOB_START_TIME), else since now."""
    text = os.environ.get("SLURM_JOB_START_TIME", "")
    return float(text) if text.isascii() and text.isdigit() else time.time()


def _append(path: Path, line: dict[str, Any]) -> None:
    with contextlib.suppress(OSError), path.open("a+b") as file:
        file.write(_separator(file) + json.dumps(line).encode() + b"\n")


def _separator(file: Any) -> bytes:
    """What keeps a line apart from one that was cut off."""
    if not file.seek(0, os.SEEK_END):
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"

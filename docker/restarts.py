"""Whether a run that failed is started again: one policy for every scheduler that restarts.

Owns the decision, which node 0 takes when the run fails, and `attempts.jsonl` in the run folder, a line each attempt.
A failure that a restart may cure is restarted as long as steps advance in between (`restart` in exit_codes.json):

    free      always                never     never, nor with torch's "out of memory" in the log of the rank
    counted   if steps have advanced since this attempt began, or else once
    others    (1, NCCL's errors, a fault of a GPU) if steps have advanced; a mistake in a program fails before its first

What fails with the same code after the same step as the attempt before is not cured by a third. The limit of the job,
`restarts`, is the scheduler's to hold.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import heartbeat
import logs
import saved
import stacks
from ending import NOT_CURED, RESTARTS, TOLD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ending import Failure

FILE = "attempts.jsonl"
_MEMORY = re.compile(rb"OutOfMemoryError|CUDA out of memory|HIP out of memory|CUDA error: out of memory")
_NO_HISTORY = (OSError, ValueError, TypeError, KeyError, IndexError)
_READING = 5.0  # seconds, for a run folder that does not answer


class Attempt(NamedTuple):
    """How an attempt ended: its code, the step it began after, the last one it has done; None where that is not told.

    `saved`: whether there is a checkpoint that it wrote.
    """

    code: int
    began: int | None = None
    step: int | None = None
    saved: bool = False

    @property
    def advanced(self) -> bool:
        return self.saved or (self.step is not None and self.step > (self.began or 0))


def again(now: Attempt, before: Attempt | None, memory: bool = False) -> tuple[bool, str]:
    """Whether a restart may help, and why. `before`: the attempt before this one; `memory`: a GPU's was full."""
    kind = RESTARTS.get(now.code, "others")
    if kind == "free":
        return True, "nobody's fault"
    if kind == "never" or memory:
        return False, "the same would happen again"
    if (
        before
        and (before.code, before.step) == (now.code, now.step)
        and now.step is not None
        and now.advanced
    ):
        return False, f"it failed after step {now.step} once before"
    if now.advanced:
        return True, "steps have advanced since it was started"
    if kind == "others":
        return False, "no step was done since it was started"
    if before and not before.advanced and RESTARTS.get(before.code) != "free":
        return False, "no step was done since the last failure"
    return True, "once without a step in between"


@dataclass
class Decision:
    """Node 0's: decides at the first failure, and leaves it in the run folder.

    `folder`: the run folder. `told`: that of the ranks' records. `by_code`: the scheduler knows nothing but the exit
    code, which is NOT_CURED where a restart would not help.
    """

    folder: Path
    told: Path
    attempt: str
    say: Callable[[str], None]
    by_code: bool = False
    began: float = 0.0  # unix time

    def __post_init__(self) -> None:
        self.began = time.time()

    def code(self, failure: Failure, wanted: bool) -> int:
        """The exit code of the run. `wanted`: nobody has told it to end."""
        wanted = wanted and failure.code not in TOLD  # Slurm tells the ranks as well, and they may be faster
        decided = stacks.within(_READING, lambda: self._decide(failure, wanted), None)
        if decided is None or decided[0]:
            return failure.code
        if not wanted or RESTARTS.get(failure.code) == "never":
            return failure.code
        self.say(f"a restart would not help: {decided[1]}")
        return NOT_CURED if self.by_code else failure.code

    def _decide(self, failure: Failure, wanted: bool) -> tuple[bool, str]:
        beats = [beat for beat in map(heartbeat.read, self.told.glob("rank-*")) if beat]
        newest = max(beats, key=lambda beat: beat.step, default=heartbeat.Beat(0))
        step, start = (newest.step, newest.began) if beats else (None, None)
        now = Attempt(failure.code, start, step, saved.since(self.folder / saved.FOLDER, self.began))
        decided = again(now, self._before(), self._out_of_memory(failure.rank))
        if not wanted:
            decided = False, "it was told to end"
        line = {"attempt": self.attempt, **now._asdict(), "rank": failure.rank, "host": failure.host}
        line |= {"again": decided[0], "why": decided[1], "started": self.began, "ended": time.time()}
        with contextlib.suppress(OSError):
            with (self.folder / FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if decided[0]:
                (self.folder / f"again-{self.attempt}").touch()
        return decided

    def _before(self) -> Attempt | None:
        with contextlib.suppress(*_NO_HISTORY):
            last: dict[str, Any] = json.loads(
                (self.folder / FILE).read_text(encoding="utf-8").splitlines()[-1]
            )
            return Attempt(**{key: last[key] for key in Attempt._fields})
        return None

    def _out_of_memory(self, rank: int) -> bool:
        with contextlib.suppress(OSError):
            return bool(_MEMORY.search(logs.tail(self.folder / "logs", rank)))
        return False

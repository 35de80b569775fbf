"""What a tuning run has found out: its candidates from plan.json, and how each trial ended from trials.jsonl.

Owns reading. The lines are docker/tune.py's, and stand in the log of the first host too, for a run whose folder is not
here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import entry
from launcher.errors import RunNotFoundError
from launcher.planning import tuning_record
from launcher.runs import reading, record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from launcher.planning.tuning_record import Tuning

FILE = "trials.jsonl"
LINE = "trial "  # begins a line of the log


class Trial(NamedTuple):
    """One that ended. `result`: a word of docker/halving.py; None for what was not measured."""

    trial: int
    steps: int
    result: str
    step_seconds: float | None
    tokens_per_second: float | None
    memory: float | None  # bytes of rank 0 at most
    seconds: float  # the trial as a whole
    why: str


class Found(NamedTuple):
    """A tuning run: what it tries, and its trials in the order in which they ended."""

    tuning: Tuning
    trials: tuple[Trial, ...]

    @property
    def results(self) -> list[Any]:
        """As docker/halving.py has them."""
        result = entry.module("halving").Result
        return [result(t.trial, t.steps, t.result, t.step_seconds) for t in self.trials]

    @property
    def settled(self) -> bool:
        """Whether nothing is left to try."""
        following = entry.module("halving").following
        return following(self._own, self.tuning.steps, self.results) is None

    @property
    def _own(self) -> list[Any]:
        trial = entry.module("halving").Trial
        return [trial(e.group, e.micro, e.bound, tuple(e.less)) for e in self.tuning.trials]

    @property
    def ranked(self) -> list[int]:
        """The candidates that were measured, the best first."""
        return [result.trial for result in entry.module("halving").ranked(self.results)]

    def hopeless(self, trial: int) -> str:
        """Why a candidate was not tried; '' where it was, or may yet be."""
        if any(t.trial == trial for t in self.trials):
            return ""
        return str(entry.module("halving").hopeless(self._own, trial, self.results))


def read(folder: Path, log: Iterable[str] = ()) -> Found:
    """The tuning run in `folder`; `log`: lines of its first host, where the folder has no trials.jsonl.

    Raises RunNotFoundError where the run is none.
    """
    data = record.read_json(folder / "plan.json")
    if not isinstance(data, dict) or "tuning" not in data:
        raise RunNotFoundError(f"{folder.name} is no tuning run", hint="see `launcher report`")
    try:
        tuning = tuning_record.restored(data["tuning"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunNotFoundError(f"{folder / 'plan.json'} cannot be read: tuning: {error}") from None
    known = [t for line in _lines(folder, log) if (t := _trial(line, len(tuning.trials)))]
    return Found(tuning, tuple({(t.trial, t.steps): t for t in known}.values()))


def _lines(folder: Path, log: Iterable[str]) -> list[str]:
    try:
        return reading.text(folder / FILE, errors="replace").splitlines()
    except OSError:
        return [line.partition(LINE)[2] for line in log if LINE in line]


def _trial(line: str, count: int) -> Trial | None:
    """None for a line that was cut off, or is none of ours."""
    try:
        data = record.strict_json(line)
        found = Trial(
            trial=int(data["trial"]),
            steps=int(data["steps"]),
            result=str(data["result"]),
            step_seconds=_figure(data.get("step_seconds")),
            tokens_per_second=_figure(data.get("tokens_per_second")),
            memory=_figure(data.get("memory_bytes")),
            seconds=float(data["seconds"]),
            why=str(data.get("why") or ""),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError):
        return None
    return found if 0 <= found.trial < count else None


def _figure(value: Any) -> float | None:
    return None if value is None else float(value)

"""How long each rank needed in its steps before it waited for others: steps.jsonl, written by the first host.

Owns reading; the format is docker/slowness.py's. Lines that are no records are passed over.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.runs import reading

if TYPE_CHECKING:
    from pathlib import Path

FILE = "steps.jsonl"
_MOST = 1e9  # seconds; nothing takes longer


class Moment(NamedTuple):
    """At `time`, Unix time: each rank's own seconds of a step, by rank; NaN where it is not known."""

    time: float
    step: int
    own: tuple[float, ...]


def read(folder: Path) -> list[Moment]:
    """Those of the run in `folder`, in the order written; none where there is no file."""
    try:
        lines = reading.content(folder / FILE).splitlines()
    except OSError:
        return []
    return [moment for line in lines if (moment := _moment(line))]


def _moment(line: bytes) -> Moment | None:
    try:
        values = json.loads(line)
        own = tuple(_seconds(value) for value in values["own"])
        time, step = _seconds(values["time"], 253_402_300_799.0), _seconds(values["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return Moment(time, int(step), own) if own and math.isfinite(time) and math.isfinite(step) else None


def _seconds(value: Any, most: float = _MOST) -> float:
    """NaN for what is no number of at least 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= most else math.nan

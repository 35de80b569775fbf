"""What a run measured: metrics.jsonl, read into records whose values have the types that they should have.

Owns reading. The format is that of docker/workloads/metrics.py, but a user's own program may write other lines, and a
crash may cut the last one: what is not a number is not measured, and what is no record is passed over.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from launcher import units
from launcher.runs import reading

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE = "metrics.jsonl"
EVENTS = "events.jsonl"  # what the node entry tells, in lines of the same kind: docker/events.py
_LONGEST = 2**20  # bytes of a line
# The largest float32: ranks measure nothing above it, and sums of such values stay finite.
LARGEST = 3.5e38


class Record(NamedTuple):
    """A line: an optimizer step, or (with its name) an event. `figures`: finite numbers; `texts`: printable words."""

    step: int
    event: str
    figures: dict[str, float]
    texts: dict[str, str]


def read(folder: Path, start: int = 0, file: str = FILE) -> tuple[list[Record], int]:
    """The records of the run in `folder` from byte `start`, and the byte to continue at. A cut last line waits."""
    path = folder / file
    try:
        with reading.opened(path) as lines:
            lines.seek(start)
            return _records(lines, start)
    except OSError:
        return [], start


def _records(file: BinaryIO, start: int) -> tuple[list[Record], int]:
    """The records of whole lines, and the byte behind the last of them. A line that is too long is none."""
    records, at, end, is_whole = list[Record](), start, start, True
    while piece := file.readline(_LONGEST):
        at += len(piece)
        if not piece.endswith(b"\n"):
            is_whole = False
            continue
        if is_whole and (record := _record(piece)):
            records.append(record)
        is_whole, end = True, at
    return records, end


def kept(records: Iterable[Record]) -> list[Record]:
    """Without steps and events that are the run's no more: those behind the step that a later attempt went on from."""
    found: list[Record] = []
    began: int | None = None
    for record in records:
        if record.event == "start":
            began = record.step
        elif not record.event and began is not None:  # an attempt that did no step has taken none back
            behind = began
            found = [earlier for earlier in found if earlier.step <= behind]
            began = None
        found.append(record)
    return found


def steps(records: Iterable[Record]) -> list[Record]:
    """Those of optimizer steps, in the order written."""
    return [record for record in records if not record.event]


def events(records: Iterable[Record], name: str) -> list[Record]:
    """Those of the event `name`, in the order written."""
    return [record for record in records if record.event == name]


def _record(line: bytes) -> Record | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    event = values.get("event", "")
    figures = {key: float(value) for key, value in values.items() if _is_figure(value)}
    step = figures.get("step", 0.0 if event else -1.0)
    if not isinstance(event, str) or step < 0 or not step.is_integer():
        return None
    texts = {key: units.printable(value) for key, value in values.items() if isinstance(value, str)}
    return Record(int(step), event, figures, texts)


def _is_figure(value: Any) -> bool:
    """Whether `value` is a finite number; JSON's `true` is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST

"""A run along the time: what it did when, its events, and each rank's own time as a heat map; for pictures and pages.

Owns what is shown and in which units; drawing.py draws.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from launcher.runs import hours, ranktimes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

T = TypeVar("T")
_MOST = 400  # columns and rows of a heat map, spans of a share
# Event → the mark on the time axis.
MARKS = {
    "failed": "failure",
    "stalled": "stall",
    "slow": "slow rank",
    "checkpoint": "checkpoint",
}


class Life(NamedTuple):
    """Times are hours since the run first had its hosts.

    `spans`: what a person reads of a share → (start, length). `marks`: of an event → moments. `own`: a row a rank, a
    column a moment of `moments`, each rank's own time over the median of all ranks at that moment; NaN: not known.
    """

    spans: dict[str, list[tuple[float, float]]]
    marks: dict[str, list[float]]
    moments: list[float]
    own: list[list[float]]


def read(folder: Path, now: float | None = None) -> Life | None:
    """The life of the run in `folder`; None where nothing of its time was recorded. `now`, Unix time, if it runs."""
    events, records = hours.read(folder)
    attempts = hours.attempts(events, records, now)
    if not attempts:
        return None
    begin = attempts[0].start
    spans: dict[str, list[tuple[float, float]]] = {words: [] for words in hours.SHARES.values()}
    for number, attempt in enumerate(attempts):
        for start, end, share in hours.timeline(attempt, hours.resumed(attempts[number + 1 :])):
            if end > start:
                spans[hours.SHARES[share]].append(((start - begin) / 3.6e6, (end - start) / 3.6e6))
    told = [record for record in (*events, *records) if record.event in MARKS and "time" in record.figures]
    marks: dict[str, list[float]] = {}
    for record in told:
        marks.setdefault(MARKS[record.event], []).append(record.figures["time"] / 3600 - begin / 3.6e6)
    known = sorted(ranktimes.read(folder), key=lambda moment: moment.time)  # a clock may have been put back
    moments = thinned([moment for moment in known if moment.time * 1000 >= begin], _MOST)
    return Life(
        spans={words: merged(found) for words, found in spans.items() if found},
        marks={words: thinned(sorted(found), _MOST) for words, found in marks.items()},
        moments=[moment.time / 3600 - begin / 3.6e6 for moment in moments],
        own=_ratios(moments),
    )


def merged(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most _MOST spans: neighbours that are closest together are drawn as one."""
    if len(spans) <= _MOST:
        return list(spans)
    size = math.ceil(len(spans) / _MOST)
    groups = [spans[at : at + size] for at in range(0, len(spans), size)]
    return [(group[0][0], sum(group[-1]) - group[0][0]) for group in groups]


def thinned(values: Sequence[T], most: int) -> list[T]:
    """Every n-th value, at most `most` of them, the last one always."""
    step = math.ceil(len(values) / most) if values else 1
    return list(values[::-1][::step][::-1])


def _ratios(moments: Sequence[ranktimes.Moment]) -> list[list[float]]:
    """A row a rank."""
    ranks = max((len(moment.own) for moment in moments), default=0)
    columns = []
    for moment in moments:
        known = [value for value in moment.own if math.isfinite(value) and value > 0]
        usual = statistics.median(known) if known else math.nan
        own = [*moment.own, *[math.nan] * (ranks - len(moment.own))]
        columns.append([value / usual for value in own])
    return [list(row) for row in zip(*columns, strict=True)]

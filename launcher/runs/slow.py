"""Ranks that are slower than their peers, as the first host's node entry has told them (docker/slowness.py).

Owns what is slow now, or was when the run ended; records may be broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from launcher.runs import metrics

if TYPE_CHECKING:
    from pathlib import Path


class SlowRank(NamedTuple):
    """`ratio`: its own time in a step over its peers'; `step`: since when; `time`: when that was told, Unix time."""

    rank: int
    host: str
    ratio: float
    step: int
    time: float | None


def read(folder: Path) -> list[SlowRank]:
    """Those of the run's newest attempt, by rank."""
    slow: dict[int, SlowRank] = {}
    for event in metrics.read(folder, file=metrics.EVENTS)[0]:
        if event.event == "allocated":
            slow.clear()
        if event.event not in ("slow", "not_slow") or "rank" not in event.figures:
            continue
        rank, ratio = int(event.figures["rank"]), event.figures.get("ratio", 0.0)
        slow.pop(rank, None)
        if event.event == "slow":
            host, time = event.texts.get("host", "?"), event.figures.get("time")
            slow[rank] = SlowRank(rank, host, ratio, step=event.step, time=time)
    return [slow[rank] for rank in sorted(slow)]


def words(slow: SlowRank) -> str:
    """One line for a person."""
    return (
        f"WARNING: rank {slow.rank} on {slow.host} is slow: it needs {slow.ratio:.2f} times as long as its peers "
        f"before it waits for them, since step {slow.step}"
    )

"""A run along the time: spans, events and the heat map of its ranks, and that they can be drawn."""

from __future__ import annotations

import io
import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest

from launcher.reports import drawing, life
from launcher.runs import hours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOUR = 3600.0


def write(folder: Path, own: Sequence[Any] = ([0.2, 0.2, 0.4], [0.2, None, 0.6])) -> Path:
    """An attempt of an hour that failed after a checkpoint, and half an hour of a second one, one hour later."""
    events = [("allocated", 0), ("met", 0), ("started", 0), ("slow", 0.6), ("failed", 1), ("ended", 1)]
    events += [("allocated", 2), ("met", 2), ("ended", 2.5)]
    records: list[dict[str, Any]] = [
        {"event": "start", "step": 0, "max_steps": 9, "time": 0.25 * HOUR},
        {"step": 1, "time": 0.5 * HOUR},
        {"event": "checkpoint", "step": 3, "seconds": 0.125 * HOUR, "time": 0.75 * HOUR},
        {"event": "start", "step": 3, "max_steps": 9, "time": 2.25 * HOUR},
    ]
    times = [{"time": (0.5 + number) * HOUR, "step": number, "own": one} for number, one in enumerate(own)]
    lines = {
        "events": [{"event": e, "time": t * HOUR} for e, t in events],
        "metrics": records,
        "steps": times,
    }
    for name, values in lines.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    return folder


def test_what_a_run_did_when(tmp_path: Path) -> None:
    assert life.read(tmp_path) is None
    found = life.read(write(tmp_path))
    assert found is not None
    assert found.spans == {
        "start and load": [(0.0, 0.25), (2.0, 0.25)],
        "first step, compiling": [(0.25, 0.25), (2.25, 0.25)],
        "steps": [(0.5, 0.125)],
        "checkpoints": [(0.625, 0.125)],
        "steps done again after a failure": [(0.75, 0.25)],
    }
    assert found.marks == {"failure": [1.0], "slow rank": [0.6], "checkpoint": [0.75]}
    assert found.moments == [0.5, 1.5]
    assert [row[0] for row in found.own] == [1.0, 1.0, 2.0]
    assert math.isnan(found.own[1][1])
    assert [found.own[0][1], found.own[2][1]] == pytest.approx([0.5, 1.5])


def test_a_run_of_many_steps_stays_small() -> None:
    spans = [(float(n), 0.5) for n in range(10_000)]
    assert len(life.merged(spans)) == life._MOST
    assert life.merged(spans)[0] == (0.0, 24.5)
    assert life.merged(spans[:3]) == spans[:3]
    values = life.thinned(range(10_000), 100)
    assert (len(values), values[-1]) == (100, 9_999)
    assert life.thinned([], 5) == []


@pytest.mark.parametrize(
    "own", [([0.2, 0.3], [0.2, 0.5]), ([0.1],), ([None, None],), ([0.0, 0.0],), ([0.2], [0.2, 0.4]), ()]
)
@pytest.mark.heavy
def test_it_can_be_drawn(own: Sequence[Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    found = life.read(write(tmp_path, own))
    svg = drawing.encoded(lambda: drawing.runs("a", ["a"], [], life=found), ["svg"])["svg"].decode()
    for words in ("failure", "slow rank", "checkpoint", "hours since the run had its hosts"):
        assert words in svg
    assert ("Time that each rank needs" in svg) is bool(own)


@pytest.mark.heavy
def test_shares_of_one_colour_are_told_apart_along_the_time_too() -> None:
    """`ending` has the colour of `start and load`, and lines over it."""
    pytest.importorskip("matplotlib", reason="it draws")
    spans = {words: [(0.0, 1.0)] for words in hours.SHARES.values()}
    axes = drawing._figure("", 4, 4).subplots()
    drawing._timeline(axes, life.Life(spans, {}, [], []))
    axes.figure.savefig(file := io.BytesIO(), format="svg")
    drawn = file.getvalue().decode()
    patterns = re.findall(r'<rect [^>]*fill="(#\w+)".*?stroke: (#\w+)', drawn, re.DOTALL)
    assert patterns
    assert all(lines == "#ffffff" != ground for ground, lines in patterns)


@pytest.mark.heavy
def test_a_heat_map_of_one_moment_has_a_width(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it draws")
    found = life.read(write(tmp_path, ([0.1, 0.2],)))
    assert found is not None
    axes = drawing._figure("", 4, 4).subplots()
    drawing._heat(axes, found)
    first, last = axes.collections[0].get_coordinates()[0][:, 0]
    assert first < last


def test_moments_are_in_order_where_a_clock_was_put_back(tmp_path: Path) -> None:
    with (write(tmp_path) / "steps.jsonl").open("a") as file:
        file.write(json.dumps({"time": 1.25 * HOUR, "step": 9, "own": [0.2]}) + "\n")
    found = life.read(tmp_path)
    assert found is not None
    assert found.moments == [0.5, 1.25, 1.5]

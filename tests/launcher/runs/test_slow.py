"""Ranks that are slow now, as events.jsonl tells them, in `status` and its JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.runs import diagnosis, record, slow
from launcher.runs.status import Status

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, *events: dict[str, Any]) -> None:
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


SLOW = {"event": "slow", "time": 7.5, "rank": 5, "host": "gpu03", "ratio": 1.8, "step": 120}


def test_status_names_who_is_slow_now(tmp_path: Path) -> None:
    run = record.Run("a", "local", "1:2", tmp_path, submitted=0.0, nodes=1, slots=1, place={})
    assert diagnosis.report(run, Status("RUNNING")) == []
    write(tmp_path, {"event": "allocated"}, SLOW)
    assert slow.read(tmp_path) == [slow.SlowRank(5, "gpu03", 1.8, 120, 7.5)]
    assert diagnosis.report(run, Status("RUNNING")) == [
        "WARNING: rank 5 on gpu03 is slow: it needs 1.80 times as long as its peers before it waits for them, "
        "since step 120"
    ]


@pytest.mark.parametrize(
    "after", [{"event": "not_slow", "rank": 5, "host": "gpu03"}, {"event": "allocated", "time": 9}]
)
def test_neither_who_was_nor_an_earlier_attempt(after: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, SLOW, after)
    assert slow.read(tmp_path) == []


@pytest.mark.parametrize("missing", ["rank", "host", "ratio", "step", "time"])
def test_a_record_that_lacks_something(missing: str, tmp_path: Path) -> None:
    write(tmp_path, {key: value for key, value in SLOW.items() if key != missing})
    assert len(slow.read(tmp_path)) == (missing != "rank")
    assert all(slow.words(one) for one in slow.read(tmp_path))

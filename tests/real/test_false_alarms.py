"""A run that only is slow is not said to hang: the short form of tests/bench/false_alarms.py, which takes minutes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import heartbeat
import pytest

from tests.bench import false_alarms

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.deepspeed
def test_two_real_ranks() -> None:
    """Each of both checkpoints takes seconds, so that the second one is seen, and what was before it."""
    trial = false_alarms.Trial(
        load=0, disk=3e5, slow=1.0, backend="eager", steps=4, evaluate=2, checkpoint=2, model="tiny-llama"
    )
    found = false_alarms.measure(trial)
    assert found["problems"] == []
    assert {heartbeat.START, heartbeat.CHECKPOINT} <= set(found["phases"])
    assert all(one["seconds"] < one["limit"] for one in found["phases"].values())


def test_what_is_an_alarm(tmp_path: Path) -> None:
    assert false_alarms.alarms(tmp_path) == []
    events = [json.dumps({"event": event, "time": 1.0}) for event in ("started", "stalled", "ended")]
    (tmp_path / "events.jsonl").write_text("\n".join(events))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "job.log").write_text(
        "node: host 1 of 1\nnode: silent for 61 s: rank 0 on a sleeps\n"
    )
    (tmp_path / "stacks" / "0-1").mkdir(parents=True)
    told, said, kept = false_alarms.alarms(tmp_path)
    assert "stalled" in told
    assert said == "node: silent for 61 s: rank 0 on a sleeps"
    assert kept == "stacks/0-1 is there"


def test_a_run_that_did_nothing_proves_nothing(tmp_path: Path) -> None:
    assert len(false_alarms.missing(false_alarms.Looks(tmp_path), 1.0)) == len(false_alarms.PHASES)

"""A rank that is late, among two real ones, is told from the other by its heartbeat (docker/workloads/own_time.py)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import pytest

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

heartbeat = importlib.import_module("heartbeat")
slowness = importlib.import_module("slowness")


@pytest.mark.parametrize(
    ("workload", "stage"), [("pretrain", 1), ("pretrain", 3), ("finetune", 2)], ids=lambda value: str(value)
)
def test_a_rank_that_is_late_is_known_within_twenty_steps(
    workload: str, stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own time has the delay in each of the last steps; all ranks' steps take equally long."""
    monkeypatch.setenv(heartbeat.VARIABLE, str(tmp_path))
    args = ("--seq-length=48", "--max-steps=19", "--step-delay=0.5", "--delay-rank=1")
    config = ranks.deepspeed(2, stage=stage, micro=2)
    ranks.run(tmp_path, 2, config, *args, model=ranks.LLAMA, workload=workload)
    beats = [heartbeat.read(heartbeat.path(tmp_path, rank)) for rank in (0, 1)]
    assert [beat.steps.count for beat in beats] == [18, 18]
    assert all(seconds >= 0.5 for beat in beats for seconds in beat.steps.last[2:]), (
        "they wait for each other"
    )
    assert min(beats[1].steps.own) >= 0.5
    paces = {rank: slowness.read(str(tmp_path), rank) for rank in (0, 1)}
    assert list(slowness.compare(paces)) == [1]

"""Ranks of the tests leave nothing behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.docker.workloads import ranks

GONE = 120.0  # a worker looks every five seconds whether its rank is there


@pytest.mark.deepspeed
def test_workers_of_a_data_loader_end_with_their_rank(tmp_path: Path) -> None:
    run = ranks.run(tmp_path, 1, {}, module="tests.docker.workloads.leaving", given=())
    worker = Path("/proc") / run.output().split()[-1]
    until = time.monotonic() + GONE
    while worker.exists() and time.monotonic() < until:
        time.sleep(0.2)
    assert not worker.exists()

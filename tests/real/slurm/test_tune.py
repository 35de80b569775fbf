"""A tuning run on a real Slurm: two hosts try configurations in one allocation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = [pytest.mark.slurm, pytest.mark.deepspeed]


def test_two_hosts_try_in_one_allocation(site: Site) -> None:
    words = ("--space", "preset=zero1", "--space", "micro=1", "--space", "checkpointing=false")
    run = site.launcher("tune", "job.yaml", "--on", "slurm", "--steps", "3", *words).stdout.strip()
    assert site.ended(run)["state"] == "SUCCEEDED", site.all_logs(run)
    found = json.loads(site.launcher("tune", run, "--json", "-o", "best.yaml").stdout)
    (trial,) = found["trials"]
    assert (found["done"], trial["result"], trial["steps"]) == (True, "best", 3)
    assert "batch: {micro: 1, global: 4}" in (site.folder / "best.yaml").read_text()
    logs = site.path(run) / "trials" / "0-3" / "logs"
    assert {path.name for path in logs.glob("rank-*.log")} == {"rank-0.log", "rank-1.log"}

"""A hang on a real Slurm, two hosts: explained, ended, its host listed, started again; and stacks of a live run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm
OWN = Path(__file__).with_name("own")


def test_a_rank_that_was_stopped(site: Site) -> None:
    job = {"name": "hang", "cluster": "./site.yaml", "nodes": 2, "walltime": "10m", "preflight": False}
    job |= {"workload": str(OWN / "hanging.py"), "batch": {"micro": 1}, "watch": {"stall": "10s"}}
    (site.folder / "hang.yaml").write_text(json.dumps(job))
    run = site.launcher("slurm", "hang.yaml").stdout.strip()
    folder = site.path(run)
    deadline = time.monotonic() + 300
    while "step 7" not in (text := _log(folder)):
        assert time.monotonic() < deadline, text + site.all_logs(run)
        time.sleep(0.2)

    (line,) = (folder / "attempts.jsonl").read_text().splitlines()
    ended = json.loads(line)
    assert (ended["code"], ended["rank"], ended["step"], ended["again"]) == (72, 1, 3, True)
    assert f"rank 1 on {ended['host']} is stopped (SIGSTOP) (step 4)" in site.all_logs(run)
    (bad,) = [line for line in (folder.parent / "bad-hosts.txt").read_text().splitlines() if line[:1] != "#"]
    assert bad.startswith(f"{ended['host']} ")
    assert "is stopped (SIGSTOP)" in bad

    found = json.loads(site.launcher("stacks", run, "--json").stdout)
    assert [(rank["rank"], rank["step"]) for rank in found["ranks"]] == [(0, 8), (1, 8)]
    assert all(rank["threads"][0][-1][2] == "<module>" for rank in found["ranks"])
    (folder / "go-on").touch()
    assert site.ended(run)["state"] == "SUCCEEDED", site.all_logs(run)


def _log(folder: Path) -> str:
    try:
        return (folder / "logs" / "rank-0.log").read_text()
    except OSError:
        return ""

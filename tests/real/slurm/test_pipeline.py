"""A pipeline on a real Slurm: stages are jobs that depend on each other, and one that failed is resumed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

PROGRAM = """
import os, sys, time
from pathlib import Path
flag, before = sys.argv[1].partition("=")[2], sys.argv[2].partition("=")[2]
time.sleep(1)
if Path(flag).exists():
    raise SystemExit(5)
Path(os.environ["RUN_DIR"], "made").write_text(f"{Path(before, 'made').read_text()}, " if before != "-" else "begun")
"""


def test_a_pipeline_is_a_chain_of_jobs_that_resumes_where_it_broke(site: Site) -> None:
    (site.folder / "stage.py").write_text(PROGRAM)
    flag = site.folder / "flag"
    for name in "abc":
        (site.folder / f"{name}.yaml").write_text(
            f"name: {name}\ncluster: ./site.yaml\nworkload: {json.dumps(str(site.folder / 'stage.py'))}\n"
            f"batch: {{micro: 1}}\nwalltime: 5m\nargs: {{flag: {json.dumps(f'{flag}-{name}')}, before: '-'}}\n"
        )
    (site.folder / "chain.yaml").write_text(
        "name: chain\npipeline:\n  a: {job: a.yaml}\n  b: {job: b.yaml, set: {args.before: $a}}\n"
        "  c: {job: c.yaml, set: {args.before: $b}}\n"
    )
    (site.folder / "flag-b").touch()
    chain = site.launcher("slurm", "chain.yaml").stdout.strip()
    found = {stage["stage"]: stage["run"] for stage in site.status(chain)["stages"]}
    ended = {name: site.ended(run) for name, run in found.items()}
    assert [ended[name]["state"] for name in "abc"] == ["SUCCEEDED", "FAILED", "CANCELLED"]
    assert ended["b"]["exit_code"] == 5
    assert not (site.path(found["c"]) / "logs" / "rank-0.log").exists()

    (site.folder / "flag-b").unlink()
    site.launcher("resume", chain)
    assert site.ended(found["c"])["state"] == "SUCCEEDED", site.all_logs(found["c"])
    assert (site.path(found["c"]) / "made").read_text() == "begun, , "
    assert site.status(chain)["state"] == "SUCCEEDED"


def test_a_pipeline_that_waits_is_cancelled_as_one(site: Site) -> None:
    (site.folder / "wait.py").write_text("import time; time.sleep(300)\n")
    program = json.dumps(str(site.folder / "wait.py"))
    text = f"cluster: ./site.yaml\nwalltime: 10m\nargs: {{}}\nworkload: {program}\nbatch: {{micro: 1}}\n"
    for name in "ab":
        (site.folder / f"{name}.yaml").write_text(f"name: {name}\n{text}")
    (site.folder / "chain.yaml").write_text(
        "name: chain\npipeline:\n  a: {job: a.yaml}\n  b: {job: b.yaml, set: {model: $a/export}}\n"
    )
    chain = site.launcher("slurm", "chain.yaml").stdout.strip()
    first, second = (stage["run"] for stage in site.status(chain)["stages"])
    site.wait(first, lambda now: now["state"] == "RUNNING")
    assert site.status(second)["reason"] == "waiting for a job it depends on"
    site.launcher("cancel", chain)
    assert [site.ended(run)["state"] for run in (first, second)] == ["CANCELLED"] * 2

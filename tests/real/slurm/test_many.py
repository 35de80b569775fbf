"""Several runs: dependencies, sweeps, lists, a thousand at once."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from launcher.runs import folders

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm


def test_after_waits_for_success(site: Site) -> None:
    gate = site.folder / "gate"
    good = site.submit(*site.held(gate), "nodes=1", "name=good")
    words = [w for s in (*site.program("print('second')\n"), "nodes=1") for w in ("--set", s)]
    second = site.launcher("slurm", "job.yaml", "--after", good, *words).stdout.strip()
    site.wait(second, lambda now: now["reason"] == "waiting for a job it depends on")
    gate.touch()
    assert site.ended(second)["state"] == "SUCCEEDED"
    assert site.status(good)["state"] == "SUCCEEDED"
    # Slurm may have forgotten the first by now: nothing is left to wait for
    third = site.launcher("slurm", "job.yaml", "--after", good, "--dry-run", *words).stdout
    assert "--dependency" not in third


def test_after_a_failure_nothing_starts_and_nothing_hangs(site: Site) -> None:
    gate = site.folder / "gate"
    bad = site.submit(*site.held(gate, "raise SystemExit(5)"), "nodes=1", "name=bad")
    words = [w for s in (*site.program("print('never')\n"), "nodes=1") for w in ("--set", s)]
    waiting = site.launcher("slurm", "job.yaml", "--after", bad, *words).stdout.strip()
    gate.touch()
    assert site.ended(bad)["exit_code"] == 5
    assert site.ended(waiting)["state"] == "CANCELLED"
    assert not (site.path(waiting) / "logs" / "rank-0.log").exists()
    refused = site.launcher("slurm", "job.yaml", "--after", bad, *words, code=3).stderr
    assert f"--after {bad}: it has failed; `python -m launcher resume {bad}` first" in refused


def test_a_sweep_is_one_array_with_a_table(site: Site) -> None:
    words = ["--set", "nodes=1", "--set", "args.max-steps=3", "--set", "batch={micro: 2}"]
    done = site.launcher(
        "slurm", "job.yaml", *words, "--sweep", "args.lr=1e-2,1e-6", "--sweep", "deepspeed=zero1"
    )
    sweep = done.stdout.strip()
    assert "2 runs submitted as one array" in done.stderr
    listed = json.loads(site.launcher("list", "--json").stdout)
    assert len({run["native_id"].partition("_")[0] for run in listed}) == 1, "one array"
    for run in listed:
        assert site.ended(run["id"])["state"] == "SUCCEEDED", site.all_logs(run["id"])
    table = site.launcher("report", sweep).stdout.splitlines()
    assert table[0].split()[:4] == ["args.lr", "deepspeed", "STATE", "STEP"]
    rows = [row.split() for row in table[1:]]
    assert sorted(row[:4] for row in rows) == [[lr, "zero1", "SUCCEEDED", "3"] for lr in ("1e-2", "1e-6")]
    assert float(rows[0][4]) <= float(rows[1][4]), "the lower loss first"
    results = json.loads(site.launcher("report", sweep, "--json").stdout)
    assert [result["settings"]["args.lr"] for result in results] == ["1e-2", "1e-6"]
    assert results[0]["loss"] != results[1]["loss"]
    assert len(site.launcher("list", "--state", "succeeded").stdout.splitlines()) == 3
    assert site.launcher("list", "--state", "failed").stdout.startswith("no FAILED runs")


def test_an_element_that_is_put_back_takes_no_other_with_it(site: Site) -> None:
    """The last element has the array's own job id, by which Slurm means all of them."""
    gate, goes = site.folder / "gate", site.folder / "goes"
    text = f"""
import os, pathlib, time
gate, goes = pathlib.Path({str(gate)!r}), pathlib.Path({str(goes)!r})
mark = pathlib.Path(os.environ["RUN_DIR"], "began")
again, first = os.environ["WHICH"] == "again", not mark.exists()
mark.touch()
if not again:
    goes.touch()
while not (goes if again else gate).exists():
    time.sleep(0.1)
raise SystemExit(75 if again and first else 0)
"""
    words = [w for s in (*site.program(text), "nodes=1", "restarts=1") for w in ("--set", s)]
    site.launcher("slurm", "job.yaml", *words, "--sweep", "env.WHICH=stays,again")
    listed = sorted(json.loads(site.launcher("list", "--json").stdout), key=lambda run: str(run["native_id"]))
    stays, again = (str(run["id"]) for run in listed)
    assert site.ended(again)["state"] == "SUCCEEDED", site.all_logs(again)
    assert site.status(stays)["state"] == "RUNNING"
    gate.touch()
    assert site.ended(stays)["state"] == "SUCCEEDED", site.all_logs(stays)
    attempts = [len(list(site.path(run).glob("hostfile-*"))) for run in (stays, again)]
    assert attempts == [1, 2]


def test_a_sweep_that_slurm_refuses_leaves_nothing(site: Site) -> None:
    words = ("--set", "cluster.slurm.partition=absent", "--sweep", "args.lr=1e-2,1e-6")
    assert "invalid partition" in site.launcher("slurm", "job.yaml", *words, code=4).stderr
    assert [p.name for p in (site.folder / "runs").iterdir()] == []


def test_a_thousand_runs_cost_one_query(site: Site, tmp_path: Path) -> None:
    job = site.cluster.sh("sbatch --parsable --hold --array=0-999 -o /dev/null --wrap true")
    for index in range(1000):
        folder = site.folder / "runs" / f"many-{index}"
        folder.mkdir(parents=True)
        record = {"id": folder.name, "scheduler": "slurm", "native_id": f"{job}_{index}", "submitted": index,
                  "nodes": 1, "slots": 1, "place": {}}  # fmt: skip
        folders.write_files(folder, {"run.json": json.dumps(record)})
    calls = tmp_path / "calls"
    for tool in ("squeue", "sacct"):
        shim = tmp_path / "bin" / tool
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f'#!/bin/sh\necho {tool} >>{calls}\nexec {shutil.which(tool)} "$@"\n')
        shim.chmod(0o755)
    site.env["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    listed = json.loads(site.launcher("list", "--json").stdout)
    assert {run["state"] for run in listed} == {"PENDING"}
    assert len(listed) == 1000
    assert calls.read_text().split() == ["squeue"]

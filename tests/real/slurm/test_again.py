"""Runs that are interrupted and go on: preemption, a lost host, the cap on restarts, `resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

SLEEP = "import time; print('ready', flush=True); time.sleep(120)\n"


def test_preemption_saves_and_goes_on_later(site: Site) -> None:
    run = site.submit("cluster.slurm.partition=low", "args.step-delay=0.3", "args.max-steps=40")
    site.shown(run, lambda: len(site.losses(run)) >= 3)
    gate = site.folder.parent / "gate"
    site.cluster.sh(
        f"sbatch -p debug -N4 --exclusive -o /dev/null --wrap 'until [ -e {gate} ]; do sleep 0.2; done'"
    )
    site.wait(run, lambda now: now["state"] == "PENDING")
    gate.touch()
    done = site.ended(run)
    assert done["state"] == "SUCCEEDED", site.all_logs(run)
    first, second = site.starts(run)
    assert first["step"] == 0
    assert second["step"] >= 3
    assert list(site.losses(run)) == list(range(1, 41)), "no step lost, none repeated"


def test_a_lost_host_costs_the_steps_since_the_last_checkpoint(site: Site) -> None:
    run = site.submit("args.step-delay=0.3", "args.max-steps=40", "checkpoint.every=5")
    lost = site.shown(run, lambda: any(r["step"] >= 7 for r in site.metrics(run) if "loss" in r))["hosts"][1]
    site.cluster.crash(lost)
    done = site.ended(run)
    assert done["state"] == "SUCCEEDED", site.all_logs(run)
    assert lost not in done["hosts"]
    _, second = site.starts(run)
    records = site.metrics(run)
    before = records[: records.index(second)]
    saved = [r["tag"] for r in before if r.get("event") == "checkpoint"]
    assert second["resumed_from"] == saved[-1], "the newest complete checkpoint"
    assert {r["step"] for r in records if "loss" in r and "event" not in r} == set(range(1, 41))
    assert (site.folder / "runs" / "bad-hosts.txt").read_text().startswith(f"{lost} 20")
    assert f"without {lost}: " in site.launcher("slurm", "job.yaml", "--exclude-bad", "--dry-run").stderr


def test_restarts_have_an_end(site: Site) -> None:
    run = site.submit(*site.program(SLEEP), "nodes=1", "restarts=1")
    job = site.status(run)["native_id"]
    for number in (1, 2):
        site.shown(run, lambda n=number: _attempts(site, run) == n)  # type: ignore[misc]
        site.cluster.sh(f"scontrol requeue {job}")
        # it waits for a moment only, and after the second time it ends
        site.wait(run, lambda now, n=number: now["state"] != "RUNNING" or _attempts(site, run) > n)  # type: ignore[misc]
    done = site.ended(run)
    assert (done["state"], done["exit_code"]) == ("FAILED", 75)
    log = (site.path(run) / "logs" / "job.log").read_text()
    assert "restarted 1 times, the limit of the job" in log
    assert "Slurm did not requeue it" not in log
    assert "saved before it was done" in site.launcher("status", run).stdout


def _attempts(site: Site, run: str) -> int:
    log = site.path(run) / "logs" / "rank-0.log"
    return log.read_text().count("ready") if log.exists() else 0


def test_resume_goes_on_as_if_nothing_had_happened(site: Site) -> None:
    """Where the site cancels what it preempts: the same steps, data and losses as without the interruption."""
    settings = ("args.max-steps=14", "cluster.slurm.partition=evict")
    whole = site.submit(*settings, "name=whole")
    assert site.ended(whole)["state"] == "SUCCEEDED"

    run = site.submit(*settings, "args.step-delay=0.5")
    assert "there is nothing to resume" in site.launcher("resume", run, code=4).stderr
    site.shown(run, lambda: len(site.losses(run)) >= 3)
    site.cluster.sh("sbatch -p debug -N4 --exclusive -o /dev/null --wrap 'sleep 2'")
    stopped = site.ended(run)
    assert (stopped["state"], stopped["exit_code"]) == ("FAILED", 75)
    assert stopped["reason"] == "preempted; `launcher resume RUN` continues from the latest checkpoint"

    said = site.launcher("resume", run).stderr
    again = site.status(run)
    assert again["native_id"] != stopped["native_id"]
    assert f"before: {stopped['native_id']}" in said
    done = site.ended(run)
    assert done["state"] == "SUCCEEDED", site.all_logs(run)
    assert len(site.starts(run)) == 2
    assert site.losses(run) == pytest.approx(site.losses(whole), rel=1e-6)
    assert f"{run} has succeeded" in site.launcher("resume", run, code=4).stderr

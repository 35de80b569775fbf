"""A host that dies while it trains is replaced inside the allocation, and training goes on as if nothing had been."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from launcher.runs import hours

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

TRAIN = ("args.max-steps=14", "args.step-delay=0.3", "checkpoint.every=4", "walltime=50m")


def test_a_spare_trains_on_and_no_other_job_gets_in(site: Site) -> None:
    """Rank 0's host dies. The job that waits for a host of this one is the undisturbed run."""
    run = site.submit(*TRAIN, "spares=1", "preflight=true", "name=spare")
    first = site.wait(run, lambda now: now["state"] == "RUNNING" and bool(now["spares"]))
    job = first["native_id"]
    waits = site.submit(*TRAIN, "name=alone", "cluster.slurm.sbatch.exclusive=true", "nodes=2")
    hosts = site.shown(run, lambda: any(r.get("step", 0) >= 6 for r in site.metrics(run)))["hosts"]
    # the script's own host is the spare, so that any host that trains may die
    assert (hosts, first["spares"]) == (["n2", "n3"], ["n1"])
    site.cluster.crash("n2")
    again = site.shown(run, lambda: len(site.starts(run)) == 2)
    assert (again["state"], again["hosts"], again["spares"]) == ("RUNNING", ["n1", "n3"], [])
    assert site.status(waits)["state"] == "PENDING"
    done = site.ended(run)
    assert (done["state"], done["native_id"]) == ("SUCCEEDED", job), site.all_logs(run)
    assert "Restarts=0" in site.cluster.sh(f"scontrol show job {job}")
    before = site.metrics(run)[: site.metrics(run).index(site.starts(run)[1])]
    saved = [r["tag"] for r in before if r.get("event") == "checkpoint"]
    assert site.starts(run)[1]["resumed_from"] == saved[-1], "the newest complete checkpoint"
    assert (site.folder / "runs" / "bad-hosts.txt").read_text().startswith("n2 20")

    assert site.ended(waits)["state"] == "SUCCEEDED", site.all_logs(waits)
    # that the first host was lost, which tells the ends, leaves no gap
    lines = site.cluster.sh(f"sacct -X -n -P -D -j {job} -o ElapsedRaw").splitlines()
    spans = [attempt.end - attempt.start for attempt in hours.attempts(*hours.read(site.path(run)))]
    assert sum(spans) / 1000 == pytest.approx(sum(map(int, lines)), rel=0.01, abs=len(lines))
    undisturbed = site.losses(waits)
    taken = [(r["step"], r["loss"]) for r in site.metrics(run) if "loss" in r and "event" not in r]
    assert {step for step, _ in taken} == set(undisturbed)
    assert [undisturbed[step] for step, _ in taken] == [loss for _, loss in taken]

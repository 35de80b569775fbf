"""`nodes: {min: 1, max: 3}`: a job starts on the hosts that are idle, goes on with fewer, and later with more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from launcher.runs import evidence
from tests.real.slurm.site import ENDED

if TYPE_CHECKING:
    from tests.real.slurm.site import Site

pytestmark = pytest.mark.slurm

STEPS = 12
PATIENCE = 900.0  # seconds, on a machine that is busy otherwise
TRAIN = (
    "batch={micro: 1, global: 6}",
    f"args.max-steps={STEPS}",
    "args.digests=true",
    "checkpoint={every: 4, keep: 20}",
    "walltime=50m",
)


def test_fewer_hosts_at_the_start_and_after_a_loss_and_more_at_a_restart(site: Site) -> None:
    """2, 1 and 3 hosts see the samples, and reach the losses, of a run that has one host all the time."""
    site.cluster.sh("scontrol update nodename=n1,n2 state=drain reason=taken")
    run = site.submit(*TRAIN, "args.step-delay=1.5", "nodes={min: 1, max: 3}")
    first = site.wait(run, lambda _: any(r.get("step", 0) >= 4 for r in site.metrics(run)), PATIENCE)
    job, hosts = first["native_id"], first["hosts"]
    assert len(hosts) == 2
    assert "2 of at most 3" in site.launcher("status", run).stdout

    site.cluster.crash(hosts[-1])
    now = site.wait(run, lambda _: len(site.starts(run)) == 2, PATIENCE)
    assert (now["hosts"], now["native_id"]) == (hosts[:1], job)
    assert "Restarts=0" in site.cluster.sh(f"scontrol show job {job}")

    site.cluster.sh("scontrol update nodename=n1,n2 state=resume")
    began = site.starts(run)[1]["step"]
    site.wait(run, lambda _: site.metrics(run)[-1].get("step", 0) > began, PATIENCE)
    site.cluster.sh(f"scontrol requeue {job}")
    ended = site.wait(run, lambda now: now["state"] in ENDED, PATIENCE)
    assert ended["state"] == "SUCCEEDED", site.all_logs(run)
    assert [start["world_size"] for start in site.starts(run)] == [2, 1, 3], site.all_logs(run)
    assert f"{run}: its attempts had 2, 1, 3 hosts" in site.launcher("report", run).stdout

    alone = site.submit(*TRAIN, "nodes=1", "name=alone")
    ended = site.wait(alone, lambda now: now["state"] in ENDED, PATIENCE)
    assert ended["state"] == "SUCCEEDED", site.all_logs(alone)
    checks = evidence.compare(evidence.read(site.path(alone)), evidence.read(site.path(run)), bound=1e-4)
    assert [check.what for check in checks] == ["samples", "losses", "parameters", "optimizer"]
    assert all(check.holds for check in checks), checks

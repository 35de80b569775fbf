"""Spares: what they cost, what batch arithmetic makes of them (nothing), and where they are refused."""

from __future__ import annotations

from typing import Any

import pytest

from launcher import schedulers
from launcher.errors import PlanError
from launcher.planning import spares
from launcher.reports import tables
from tests import samples

CLUSTER: dict[str, Any] = {"slots": 4, "hosts": 8}


def refused(job: dict[str, Any], **cluster: Any) -> list[str]:
    with pytest.raises(PlanError) as caught:
        samples.decided(job, **{**CLUSTER, **cluster})
    return [str(problem) for problem in caught.value.problems]


def test_ranks_and_batch_do_not_count_spares() -> None:
    job = {"nodes": 4, "batch": {"micro": 1, "global": 32}}
    without, made = samples.decided(job, **CLUSTER), samples.decided({**job, "spares": 2}, **CLUSTER)
    assert (made.world_size, made.batch, made.config) == (16, without.batch, without.config)
    assert (without.allocated, made.allocated) == (4, 6)


def test_what_they_cost_is_told() -> None:
    made = samples.decided({"nodes": 4, "spares": 1, "walltime": "48h"}, **CLUSTER)
    assert spares.cost(made) == "1 of 5 hosts idle: 4 of 20 slots, 192 slot hours in a walltime of 2 d 0 h"
    assert f"spares  {'':6}" in tables.plan(made)
    assert '"spares": 1' in tables.plan_json(made)
    assert "spares" not in tables.plan(samples.decided({"nodes": 4}, **CLUSTER))


def test_more_than_make_sense_are_refused() -> None:
    said = refused({"nodes": 2, "spares": 3})
    assert said == ["spares: 3 hosts would be idle beside 2 that work; use spares: 2 or fewer"]
    assert samples.decided({"nodes": 1, "spares": 1}, **CLUSTER).preflight


@pytest.mark.parametrize(("hosts", "hint"), [(5, "use spares: 1"), (4, "leave spares out")])
def test_a_cluster_without_so_many_hosts(hosts: int, hint: str) -> None:
    said = refused({"nodes": 4, "spares": 2}, hosts=hosts)
    assert said == [f"the job needs 6 hosts with its spares, the cluster has {hosts}; {hint}"]


def test_a_spare_without_a_restart_is_warned_of() -> None:
    (warning,) = samples.decided({"nodes": 2, "spares": 1, "restarts": 0}, **CLUSTER).warnings
    assert "restarts is 0" in str(warning)


@pytest.mark.parametrize("kind", ["job", "jobset", "trainjob", "mpijob", "pytorchjob", "leaderworkerset"])
def test_no_kind_of_kubernetes_has_them(kind: str) -> None:
    cluster = {"kubernetes": {"kind": kind, "runs": "runs"}, "image": "registry.example.com/train:1"}
    made = samples.decided({"nodes": 2, "spares": 1}, **{**CLUSTER, **cluster, "fabric": "tcp"})
    with pytest.raises(PlanError) as caught:
        schedulers.load("kubernetes").render(made)
    (said,) = [str(p) for p in caught.value.problems if "spares" in str(p)]
    assert "can take another's place" in said
    assert "leave spares out" in said


def test_this_machine_has_none() -> None:
    with pytest.raises(PlanError, match="spares: one machine has no other host; use `launcher slurm`"):
        schedulers.load("local").render(samples.decided({"nodes": 2, "spares": 1}, **CLUSTER))

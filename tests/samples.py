"""A small valid job and cluster, with fields changed as a test needs.

Owns the shortest files that make a plan; what ships is in jobs/.
"""

from __future__ import annotations

import contextlib
import resource
from typing import TYPE_CHECKING, Any

from launcher.files import cluster as files_cluster
from launcher.files import job as files_job
from launcher.files import load, validation
from launcher.planning import plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.planning.plan import Plan

# A site that is the same on every machine.
SITE = plan.Workspace("/opt/launcher", "/shared/runs", "/opt/venv/bin/python", "0123456789ab")

JOB = "name: demo\ncluster: here.yaml\nmodel: byte-gpt\nbatch: {micro: 1}\n"
CLUSTER = "slots: 2\nfabric: loopback\n"


def job(**fields: Any) -> files_job.Job:
    """A valid job for two CPU ranks, with `fields` on top."""
    return validation.build(
        files_job.Job, {"name": "demo", "model": "byte-gpt", "batch": {"micro": 1}, **fields}
    )


def cluster(**fields: Any) -> files_cluster.Cluster:
    """A valid cluster of hosts without GPUs, with `fields` on top."""
    return validation.build(files_cluster.Cluster, {"slots": 2, "fabric": "loopback", **fields})


def loaded(path: str, cluster: str | None = None, settings: Sequence[str] = ()) -> load.Loaded:
    """A job's file and its cluster's, as the command line reads them."""
    (stage,) = load.load(path, cluster, settings).stages
    return load.load_stage(stage)


def decided(job_fields: dict[str, Any] | None = None, **cluster_fields: Any) -> Plan:
    """The plan of both."""
    return plan.make(load.Loaded(job(**(job_fields or {})), cluster(**cluster_fields)), SITE)


def rate(value: float, spread: float = 0.1) -> dict[str, float]:
    """A rate of a probe whose rounds differ by `spread`."""
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + spread)}


def probed(**fields: Any) -> dict[str, Any]:
    """The probe.json of two hosts of two CPU ranks each, with `fields` on top."""
    up = {"name": "eth0", "state": "up", "megabits": 10_000}
    host = {"cpus": 2, "driver": "", "gpu": "", "memory": 2**33, "free": 2**32, "rate": 4e10, "rdma": []}
    kinds, scopes = ("all_reduce", "all_gather", "reduce_scatter"), {"host": (2, 1e9), "world": (4, 1e8)}
    return {
        "format": 1,
        "time": 1_790_000_000,
        "device": "cpu",
        "ranks": 4,
        "slots": 2,
        "versions": {"torch": "2.13.0", "deepspeed": "0.19.8"},
        "hosts": [{"host": name, **host, "interface": "eth0", "interfaces": [up]} for name in ("n1", "n2")],
        "matrix": [
            {"type": kind, "size": size, "rate": rate(best * size / 512)}
            for kind, best in (("bf16", 2e10), ("fp32", 4e10))
            for size in (64, 512)
        ],
        "memory": rate(1e10),
        "transfers": [],
        "collectives": [
            {"kind": kind, "scope": scope, "ranks": ranks, "bytes": size, "rate": rate(best * size / 2**20)}
            for scope, (ranks, best) in scopes.items()
            for kind in kinds
            for size in (2**16, 2**20)
        ],
        "pairs": [{"hosts": ["n1", "n2"], "rate": 1e8}],
        "disks": [
            {"what": what, "write": rate(1e9), "read": rate(2e9)} for what in ("run folder", "scratch")
        ],
        "slow": {"hosts": [], "links": []},
        **fields,
    }


def measured(**fields: Any) -> dict[str, Any]:
    """A NAME.measured.json of `probed` hosts, with `fields` on top."""
    return {
        "format": 1,
        "measured": "2026-11-26T06:30:00Z",
        "gpu": None,
        "slots": 2,
        "image": "deepspeed-train:0123456789ab-cpu",
        "run": "probe-abc123",
        "probe": probed(),
        "runs": [],
        **fields,
    }


def ran(run: str, predicted: float, passes: float, seconds: float, **fields: Any) -> dict[str, Any]:
    """A run of a measured file, with `fields` on top."""
    unknown = dict.fromkeys(("memory", "planned_memory", "checkpoint_seconds", "checkpoint_bytes"))
    return {"run": run, "predicted": predicted, "passes": passes, "seconds": seconds, **unknown, **fields}


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No byte can be written to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

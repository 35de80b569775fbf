"""A small valid job and cluster, with fields changed as a test needs.

Owns the shortest files that make a plan; what ships is in jobs/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.files import cluster as files_cluster
from launcher.files import job as files_job
from launcher.files import load, validation
from launcher.planning import plan

if TYPE_CHECKING:
    from collections.abc import Sequence

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

"""The cluster as seen by a workload that needs no GPU, such as prepare: the same hosts, and no device of theirs.

Owns what of a cluster file asks for devices, on Slurm and on Kubernetes. Other hosts, such as those of a CPU partition,
have a cluster file of their own: the job's `cluster:` names it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from launcher import workloads

if TYPE_CHECKING:
    from launcher.files.cluster import Cluster
    from launcher.files.job import Job

# Fabrics that bring no devices, sidecars or rights along: the ranks of such a workload hardly talk to each other.
_PLAIN = ("none", "loopback", "tcp")
# https://slurm.schedmd.com/sbatch.html
_OF_SLURM = re.compile(r"gres(?:-flags)?|gpus.*|gpu-.*|.*-per-gpu|tres-.*|exclusive")


def seen(job: Job, cluster: Cluster) -> Cluster:
    """The cluster of the job: as it is where its workload needs GPUs, else without them, with one rank a host."""
    if workloads.is_script(job.workload) or workloads.traits(job.workload).needs_accelerator:
        return cluster
    asked = {k: v for k, v in cluster.slurm.sbatch.items() if not _OF_SLURM.fullmatch(k)}
    # extended resources have a domain in their names: rdma/ib, vpc.amazonaws.com/efa
    plain = {k: v for k, v in cluster.kubernetes.resources.items() if "/" not in k}
    return replace(
        cluster,
        gpu=None,
        slots=1,
        nvme=None,
        fabric=cluster.fabric if cluster.fabric in _PLAIN else "tcp",
        slurm=replace(cluster.slurm, sbatch=asked),
        kubernetes=replace(cluster.kubernetes, gpu_resource=None, resources=plain),
    )

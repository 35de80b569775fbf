"""Amounts of CPUs, memory and devices with which no pod would ever be placed, or could not start.

Owns the checks; what a pod asks for is pods.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import units
from launcher.errors import Problem, of_field
from launcher.files import kubernetes_syntax
from launcher.planning import accelerators
from launcher.schedulers.kubernetes import pods

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

_LEAST = 2**20  # bytes: amounts are written in whole MiB


def problems(plan: Plan) -> Iterator[Problem]:
    """What is asked for, and cannot be had."""
    yield from _above_the_host(plan)
    yield from _memory(plan)
    cluster = plan.cluster.kubernetes
    for name, field in (("cpu", "cpus"), ("memory", "memory")):
        if name in cluster.resources:
            what, hint = "is set by another field", f"use kubernetes.{field}"
            yield of_field("cluster", "kubernetes.resources", what, hint, key=name)
    name = accelerators.resource(plan.cluster)
    gpus = cluster.resources.get(name)
    if gpus is not None and plan.gpu and gpus != str(plan.slots):
        yield Problem(
            f"kubernetes.resources: {gpus} {name}, but a host has {plan.slots} slots",
            "use `slots`",
            about=("cluster", "kubernetes", "resources", name),
        )


def _above_the_host(plan: Plan) -> Iterator[Problem]:
    """Requests of more than a host has: the pod would wait for ever."""
    cluster, cpus = plan.cluster, plan.cluster.kubernetes.cpus
    if cpus and cluster.cpus and kubernetes_syntax.number(cpus) > cluster.cpus:
        what = f"{cpus} is more than the host's {cluster.cpus}"
        yield of_field("cluster", "kubernetes.cpus", what, "leave it out for 90 % of them")
    memory = cluster.kubernetes.memory
    if memory and cluster.memory and memory > cluster.memory:
        what = f"{units.gigabytes(memory)} is more than the host's {units.gigabytes(cluster.memory)}"
        yield of_field("cluster", "kubernetes.memory", what, "leave it out for 90 % of it")


def _memory(plan: Plan) -> Iterator[Problem]:
    asked = {"memory": pods.memory_limit(plan), "shm": plan.cluster.kubernetes.shm}
    small = [name for name, size in asked.items() if size is not None and size < _LEAST]
    for name in small:
        what, hint = f"of {asked[name]} bytes is less than 1 MiB", "write it with its unit, such as 64GiB"
        yield of_field("cluster", f"kubernetes.{name}", what, hint)
    if small:
        return
    total, shm = pods.memory_limit(plan), pods.shared_memory(plan)
    if total and shm >= total:
        what = f"of {shm // 2**20} MiB is not less than the pod's memory, {total // 2**20} MiB"
        yield of_field("cluster", "kubernetes.shm", what, "shm counts towards memory")
    # bytes that the ranks are estimated to need beside GPUs
    needed = plan.estimate.evaluation.memory.host.total if plan.estimate and plan.gpu else 0
    if total and needed > total:
        yield Problem(
            f"a pod's memory limit is {units.gigabytes(total)}, and its ranks need about {units.gigabytes(needed)}",
            "raise kubernetes.memory, or use a preset with less offload; `launcher plan JOB` shows the parts",
            about=("cluster", "kubernetes", "memory"),
        )

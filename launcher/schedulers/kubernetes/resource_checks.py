"""Amounts of CPUs, memory and devices with which no pod would ever be placed, or could not start.

Owns the checks; what a pod asks for is pods.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import units
from launcher.errors import Problem
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
            yield Problem(
                f"kubernetes.resources: {name} is set by another field",
                f"use kubernetes.{field}",
                about=("cluster", "kubernetes", "resources", name),
            )
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
    cluster, about = plan.cluster, ("cluster", "kubernetes")
    cpus = cluster.kubernetes.cpus
    if cpus and cluster.cpus and kubernetes_syntax.number(cpus) > cluster.cpus:
        what = f"kubernetes.cpus {cpus} is more than the host's {cluster.cpus}"
        yield Problem(what, "leave it out for 90 % of them", about=(*about, "cpus"))
    memory = cluster.kubernetes.memory
    if memory and cluster.memory and memory > cluster.memory:
        what = f"kubernetes.memory {units.gigabytes(memory)} is more than the host's {units.gigabytes(cluster.memory)}"
        yield Problem(what, "leave it out for 90 % of it", about=(*about, "memory"))


def _memory(plan: Plan) -> Iterator[Problem]:
    asked = {"memory": pods.memory_limit(plan), "shm": plan.cluster.kubernetes.shm}
    small = [name for name, size in asked.items() if size is not None and size < _LEAST]
    for name in small:
        what = f"kubernetes.{name} of {asked[name]} bytes is less than 1 MiB"
        yield Problem(what, "write it with its unit, such as 64GiB", about=("cluster", "kubernetes", name))
    if small:
        return
    total, shm = pods.memory_limit(plan), pods.shared_memory(plan)
    if total and shm >= total:
        yield Problem(
            f"kubernetes.shm of {shm // 2**20} MiB is not less than the pod's memory, {total // 2**20} MiB",
            "shm counts towards memory",
            about=("cluster", "kubernetes", "shm"),
        )
    needed = _host_memory(plan)
    if total and needed > total:
        yield Problem(
            f"a pod's memory limit is {units.gigabytes(total)}, and its ranks need about {units.gigabytes(needed)}",
            "raise kubernetes.memory, or use a preset with less offload; `launcher plan JOB` shows the parts",
            about=("cluster", "kubernetes", "memory"),
        )


def _host_memory(plan: Plan) -> int:
    """Bytes of host memory that a pod's ranks are estimated to need beside GPUs; 0 where that is not known."""
    return plan.estimate.evaluation.memory.host.total if plan.estimate and plan.gpu else 0

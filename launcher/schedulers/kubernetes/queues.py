"""How a run's pods are admitted together: Kueue, Volcano, coscheduling, or as they come.

Owns the labels, annotations and PodGroups that these systems read, and where a topology is written.

https://kueue.sigs.k8s.io/docs/tasks/run/jobs/
https://volcano.sh/en/docs/podgroup/
https://github.com/kubernetes-sigs/scheduler-plugins/blob/master/pkg/coscheduling/README.md
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.errors import Problem
from launcher.files import kubernetes_syntax
from launcher.namedtuple import NamedTuple
from launcher.schedulers.kubernetes import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from launcher.files.cluster import Kubernetes
    from launcher.planning.plan import Plan

KUEUE = "kueue.x-k8s.io"
_SCHEDULERS = {"volcano": "volcano", "coscheduling": "scheduler-plugins-scheduler"}


class Queueing(NamedTuple):
    """What a queue adds: to the object's metadata, to the pods, and as an object of its own (`group`)."""

    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    pod_labels: Mapping[str, str] = {}
    pod_annotations: Mapping[str, str] = {}
    affinity: Mapping[str, Any] = {}
    scheduler: str | None = None
    group: dict[str, Any] | None = None


def make(plan: Plan, requests: dict[str, str]) -> Queueing:
    """The queueing of `plan`, whose pods each ask for `requests`."""
    cluster = plan.cluster.kubernetes
    pod_labels: dict[str, str] = {}
    pod_annotations: dict[str, str] = {}
    if labels := label(cluster):
        if cluster.queue_priority:
            labels[f"{KUEUE}/priority-class"] = cluster.queue_priority
    elif cluster.queueing == "volcano":
        pod_annotations["scheduling.k8s.io/group-name"] = kinds.name(plan)
    elif cluster.queueing == "coscheduling":
        pod_labels["scheduling.x-k8s.io/pod-group"] = kinds.name(plan)
    topology = cluster.topology
    affinity: dict[str, Any] = {}
    if topology and labels:
        strength = "required" if topology.required else "preferred"
        pod_annotations[f"{KUEUE}/podset-{strength}-topology"] = topology.label
    elif topology and by_affinity(cluster):
        affinity = _near(plan, topology.label, topology.required)
    exclusive = topology.label if topology and topology.exclusive else None
    return Queueing(
        labels=labels,
        annotations={"alpha.jobset.sigs.k8s.io/exclusive-topology": exclusive} if exclusive else {},
        pod_labels=pod_labels,
        pod_annotations=pod_annotations,
        affinity=affinity,
        scheduler=_SCHEDULERS.get(cluster.queueing),
        group=_group(plan, requests),
    )


def label(cluster: Kubernetes) -> dict[str, str]:
    """Kueue's queue, as a label; {} without one. It is enough: Kueue's webhook suspends the object until admitted."""
    return {f"{KUEUE}/queue-name": cluster.queue} if cluster.queueing == "kueue" and cluster.queue else {}


def by_affinity(cluster: Kubernetes) -> bool:
    """Whether a topology is written as affinity of the run's pods to each other: nothing else knows of it."""
    topology = cluster.topology
    return topology is not None and not (label(cluster) or topology.exclusive or topology.tier)


def warnings(plans: Sequence[Plan]) -> Iterator[Problem]:
    """What may happen to runs that are submitted at once: each may get a part of the nodes that it needs."""
    if len(plans) > 1 and any(p.nodes > 1 and not _admitted(p.cluster.kubernetes) for p in plans):
        what = "without a queue each run may hold some of its hosts and wait for the others"
        hint = "kubernetes.queue or queueing in the cluster file admits the pods of a run together, or none"
        yield Problem(what, hint, about=("cluster", "kubernetes")).at(plans[0].places)


def _admitted(cluster: Kubernetes) -> bool:
    return bool(cluster.queue) or cluster.queueing != "kueue"


def _near(plan: Plan, label: str, required: bool) -> dict[str, Any]:
    """Affinity of the run's pods to each other, within one value of a node label."""
    term = {"labelSelector": {"matchLabels": kinds.selector(plan)}, "topologyKey": label}
    if required:
        return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    weighted = {"weight": 100, "podAffinityTerm": term}
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}}


def _group(plan: Plan, requests: dict[str, str]) -> dict[str, Any] | None:
    """The PodGroup (apiVersion and spec) of Volcano or coscheduling: all hosts or none."""
    cluster = plan.cluster.kubernetes
    if cluster.queueing not in _SCHEDULERS:
        return None
    spec: dict[str, Any] = {"minMember": plan.nodes, "minResources": _all(requests, plan.nodes)}
    if not spec["minResources"]:
        del spec["minResources"]
    if cluster.queueing == "coscheduling":
        return {"api": "scheduling.x-k8s.io/v1alpha1", "spec": spec | {"scheduleTimeoutSeconds": 600}}
    spec |= {"queue": cluster.queue} if cluster.queue else {}
    spec |= {"priorityClassName": cluster.priority_class} if cluster.priority_class else {}
    topology = cluster.topology
    if topology and topology.tier:
        mode = "hard" if topology.required else "soft"
        spec["networkTopology"] = {"mode": mode, "highestTierAllowed": topology.tier}
    return {"api": "scheduling.volcano.sh/v1beta1", "spec": spec}


def _all(requests: dict[str, str], pods: int) -> dict[str, str]:
    """What `pods` pods ask for together: in thousandths for CPUs, in MiB for memory, else whole."""
    limits = {}
    for name, amount in requests.items():
        number = kubernetes_syntax.number(amount) * pods
        if name == "cpu":
            limits[name] = f"{round(number * 1000)}m" if number % 1 else str(int(number))
        elif name == "memory" or name.startswith("hugepages-"):
            limits[name] = f"{int(number) // 2**20}Mi"
        else:
            limits[name] = str(int(number))
    return limits

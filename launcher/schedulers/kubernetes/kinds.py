"""The kinds of objects that can run a run's pods: one entry each in kinds.json.

Owns what a controller names its pods, how a pod tells its index, and where the kind comes from; the objects' text
is templates/kubernetes/<kind>.yaml.j2, what is inside a pod is pods.py's.

    kind          pods                         a host in the hostfile          its index comes from
    job           NAME-2-xxxxx                 NAME-2.NAME                     JOB_COMPLETION_INDEX
    jobset        NAME-node-0-2-xxxxx          NAME-node-0-2.NAME              JOB_COMPLETION_INDEX
    trainjob      the same                     the same                        JOB_COMPLETION_INDEX
    mpijob        NAME-launcher, NAME-worker-1 NAME-worker-1.NAME              its place in the hostfile
    pytorchjob    NAME-master-0, NAME-worker-1 NAME-worker-1                   RANK, the node's rank there
    leaderworkerset  NAME-0, NAME-0-2          NAME-0-2.NAME                   LWS_WORKER_INDEX
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.planning.plan import Plan

INDEX = "batch.kubernetes.io/job-completion-index"
_ROLE, _REPLICA = "training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index"
_MPI_ROLE = "training.kubeflow.org/job-role"
_LWS = "leaderworkerset.sigs.k8s.io"
_JOBSET = "jobset.sigs.k8s.io"
_LONGEST = 63  # a DNS label, which pods' host names, Services and label values are: RFC 1123, RFC 1035


class Kind(NamedTuple):
    """A kind of object. `plural` is its name in the API's paths; `install` is the command that brings it.

    `lacks` is what to do where no command does.
    `container` is how its controller finds the ranks' container in a pod, `lost` what it does about a pod that is lost.
    """

    name: str
    api: str
    kind: str
    plural: str
    lost: str = ""
    install: str = ""
    lacks: str = ""
    container: str = "node"
    # What the controller labels the pods with, where the run's own label may not reach them.
    label: str = ""


_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
KINDS = {entry["name"]: Kind(**entry) for entry in _TABLE["runs"]}
# What else a run may consist of.
OTHERS = [Kind(**entry) for entry in _TABLE["others"]]


def of(api: str, kind: str) -> Kind:
    """The entry of an object's apiVersion and kind. Raises KeyError for one that no template renders."""
    every = {(entry.api, entry.kind): entry for entry in (*KINDS.values(), *OTHERS)}
    return every[api, kind]


def name(plan: Plan) -> str:
    """The name of the run's objects: its id, or as much of it as fits, and the id's hash.

    Room is left for what the controller puts behind it, so that no pod's name is cut.
    """
    last, cluster = plan.nodes - 1, plan.cluster.kubernetes
    group = f"-{cluster.serve.replicas - 1}"
    behind = {
        "job": f"-{last}-abcde",
        "jobset": f"-worker-0-{last}-abcde" if split(plan) else f"-node-0-{last}-abcde",
        "trainjob": f"-node-0-{last}-abcde",
        "mpijob": max(f"-worker-{last}", "-launcher-abcde", key=len),
        "pytorchjob": max(f"-worker-{last}", "-master-0", key=len),
        # a StatefulSet of each group, and the hash that labels its revision
        "leaderworkerset": max(f"{group}-{last}", f"{group}-0123456789", key=len),
    }[cluster.kind]
    room = _LONGEST - len(behind)
    # of NAME, the StatefulSet of group 2 is NAME-2, and so would be that of the first hosts of a run NAME-2
    is_group = cluster.kind == "leaderworkerset" and re.search("-[0-9]{1,5}$", plan.id)
    if len(plan.id) <= room and not is_group:
        return plan.id
    digest = hashlib.sha256(plan.id.encode()).hexdigest()[:6]
    return f"{plan.id[: room - 7].rstrip('-')}-{digest}"


def split(plan: Plan) -> bool:
    """Whether the first host is a part of its own, which starts before the others."""
    cluster = plan.cluster.kubernetes
    return cluster.kind == "jobset" and cluster.leader_first and plan.nodes > 1


def hosts(plan: Plan, group: int = 0) -> list[str]:
    """The DNS names of the run's hosts, in the order of their indices, as pods of one namespace resolve them."""
    stem, kind = name(plan), plan.cluster.kubernetes.kind
    rest = range(1, plan.nodes)
    if kind == "job":
        return [f"{stem}-{i}.{stem}" for i in range(plan.nodes)]
    if split(plan):
        return [f"{stem}-leader-0-0.{stem}", *(f"{stem}-worker-0-{i - 1}.{stem}" for i in rest)]
    if kind in {"jobset", "trainjob"}:
        return [f"{stem}-node-0-{i}.{stem}" for i in range(plan.nodes)]
    if kind == "mpijob":
        return [f"{stem}-launcher.{stem}", *(f"{stem}-worker-{i - 1}.{stem}" for i in rest)]
    if kind == "pytorchjob":  # a Service for each pod
        return [f"{stem}-master-0", *(f"{stem}-worker-{i - 1}" for i in rest)]
    return [f"{stem}-{group}.{stem}", *(f"{stem}-{group}-{i}.{stem}" for i in rest)]


def selector(plan: Plan) -> dict[str, str]:
    """The labels that all pods of the run have, and no others."""
    label = KINDS[plan.cluster.kubernetes.kind].label
    return {label: name(plan)} if label else {"launcher/run": plan.id}


def index(kind: str, pod: str, labels: Mapping[str, str]) -> int | None:
    """The index among the run's hosts of the pod named `pod`; None for one that is none of them."""
    if kind == "leaderworkerset":
        return _number(labels.get(f"{_LWS}/worker-index"))
    if kind == "mpijob":  # by name: releases differ in whether the replica index counts the launcher
        worker = re.fullmatch(r".*-worker-(\d+)", pod)
        return 0 if labels.get(_MPI_ROLE) == "launcher" else int(worker[1]) + 1 if worker else None
    if kind == "pytorchjob":
        replica = _number(labels.get(_REPLICA))
        return replica if labels.get(_ROLE) == "master" or replica is None else replica + 1
    at = _number(labels.get(INDEX))
    return at + 1 if at is not None and labels.get(f"{_JOBSET}/replicatedjob-name") == "worker" else at


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None

"""The manifests that tests/golden/kubernetes/ keeps: kind × queue, kind × fabric, and each release of Trainer.

Owns which there are; `make golden` writes them, test_golden.py compares, and the tests beside this file check each.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import TYPE_CHECKING, Any

from launcher import ROOT
from launcher.fabrics import FABRICS
from launcher.files import load
from launcher.planning import plan
from launcher.schedulers import kubernetes
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.planning.plan import Plan

KINDS = ("job", "jobset", "trainjob", "mpijob", "pytorchjob", "leaderworkerset")
QUEUES: dict[str, dict[str, Any]] = {
    "plain": {},
    "kueue": {
        "queue": "research",
        "queue_priority": "high",
        "topology": "cloud.google.com/gce-topology-block",
    },
    "volcano": {"queueing": "volcano", "queue": "research", "topology": {"label": "rack", "tier": 2}},
    "coscheduling": {"queueing": "coscheduling", "topology": {"label": "rack", "required": True}},
}
ON_KUBERNETES = [
    name for name, fabric in FABRICS.items() if "kubernetes" in (fabric.schedulers or ("kubernetes",))
]
RELEASES = ("2.0", "2.1", "2.2")
EVERYTHING: dict[str, Any] = {
    "namespace": "training",
    "priority_class": "batch",
    "runs": "runs",
    "cpus": "90",
    "memory": "900GiB",
    "shm": "64GiB",
    "resources": {"rdma/ib": 8},
    "node_selector": {"node.kubernetes.io/instance-type": "h100"},
    "tolerations": [{"key": "team", "value": "nlp", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]
            }
        }
    },
    "labels": {"team": "nlp"},
    "annotations": {"k8s.v1.cni.cncf.io/networks": "sriov-0,sriov-1"},
    "image_pull_secrets": ["registry"],
    "service_account": "trainer",
    "user": 2000,
    "group": 3000,
    "memlock": "node",
    "wait": "10m",
    "grace_seconds": 600,
}


def decide(kubernetes_: dict[str, Any], job: dict[str, Any] | None = None, **cluster: Any) -> Plan:
    """The plan of two hosts of eight GPUs, with changes."""
    fields = {
        "gpu": "h100-80gb",
        "slots": 8,
        "cpus": 96,
        "memory": "1000GB",
        "fabric": "infiniband",
        "image": "registry.example.com/deepspeed-train",
        "mounts": {"/data": {"claim": "data", "readonly": True}},
        **cluster,
    }
    wanted = {"nodes": 2, "env": {"HF_TOKEN": {"secret": "hf-token"}}, **(job or {})}
    site = plan.Workspace(
        "/opt/launcher", "/shared/runs", "/opt/venv/bin/python", "0123456789ab", "fedcba987654"
    )
    return plan.make(
        load.Loaded(
            samples.job(**wanted), samples.cluster(**fields, kubernetes={"runs": "runs", **kubernetes_})
        ),
        site,
    )


def _cases() -> dict[str, Callable[[], Plan]]:
    """Name → what plans the variant."""
    made: dict[str, Callable[[], Plan]] = {
        f"{kind}-{queue}": partial(decide, {"kind": kind, "runs": "runs", **fields})
        for kind in KINDS
        for queue, fields in QUEUES.items()
    }
    made |= {
        f"{kind}-{fabric}": partial(
            decide,
            {"kind": kind, "runs": "runs"},
            fabric=fabric,
            job={"nodes": _nodes(fabric)},
            gpu=_gpu(fabric),
        )
        for kind, fabrics in (("job", ON_KUBERNETES), ("jobset", ("efa-p5", "gcp-tcpxo", "oci-h100")))
        for fabric in fabrics
    }
    made |= {
        f"trainjob-on-torch-distributed-{release}": partial(
            decide,
            {"kind": "trainjob", "runtime": "torch-distributed", "trainer": release, "memlock": "node"},
        )
        for release in RELEASES
    }
    made["job-efa-p6-b300-dra"] = partial(decide, {"adapters": "dra"}, fabric="efa-p6-b300")
    exclusive = {"label": "rack", "exclusive": True}
    told = [{"webhook": {"secret": "team"}, "on": ["failure"]}, {"command": ["mail", "$HOME"]}]
    serve = {"kind": "leaderworkerset", "serve": {"port": 9000, "replicas": 3}}
    return made | {
        "jobset-exclusive": partial(decide, {"kind": "jobset", "topology": exclusive}),
        "jobset-leader-first": partial(decide, {"kind": "jobset", "leader_first": True}),
        "job-everything": partial(decide, EVERYTHING, metrics_port=9400, notify=told),
        "job-cpu": partial(decide, {}, gpu=None, memory=None, cpus=None, fabric="tcp", mounts={}),
        "quickstart-on-kubernetes-cpu": shipped,
        "leaderworkerset-groups": partial(decide, serve),
    }


@functools.cache
def made(name: str) -> Plan:
    """The plan of a variant."""
    return _CASES[name]()


@functools.cache
def text(name: str) -> str:
    """The manifest of a variant."""
    return kubernetes.render(made(name))["manifest.yaml"]


def shipped(*settings: str) -> Plan:
    """The quickstart on the cluster file that ships for a Kubernetes without GPUs."""
    (stage,) = load.load(str(ROOT / "jobs" / "quickstart.yaml"), "kubernetes-cpu", settings).stages
    return plan.make(load.load_stage(stage), samples.SITE)


def _gpu(fabric: str) -> str:
    return "h100-80gb" if "nvidia" in FABRICS[fabric].vendors else "mi300x-192gb"


def _nodes(fabric: str) -> int:
    return 1 if fabric == "loopback" else 2


def rendered() -> dict[str, str]:
    """File name → manifest of every variant."""
    return {f"{name}.yaml": text(name) for name in NAMES}


# Names alone: a plan takes 20 ms, and every process that collects tests reads this.
_CASES = _cases()
NAMES = tuple(_CASES)

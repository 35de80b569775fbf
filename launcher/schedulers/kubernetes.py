"""Kubernetes: an Indexed Job, its headless Service and a ConfigMap, applied server-side through the Python client.

Owns the objects' data and Kubernetes' words for states; their text is templates/kubernetes/.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from launcher import command, containers, hostfile
from launcher import render as templates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.plan import Plan
    from launcher.runs import Run
    from launcher.schedulers import Files, Selection, Status

FOLDER = "/runs"  # where the run folders' volume is mounted in a pod


def render(plan: Plan) -> Files:
    """`manifest.yaml`, fit for `kubectl apply -f`."""
    folder = f"{FOLDER}/{plan.id}"
    kubernetes = plan.cluster.kubernetes
    labels = {
        "app.kubernetes.io/name": plan.job.name,
        "app.kubernetes.io/managed-by": "launcher",
        "launcher/run": plan.id,
    }
    queue = {"kueue.x-k8s.io/queue-name": kubernetes.queue} if kubernetes.queue else {}
    volumes, mounts = _volumes(plan)
    hosts = [f"{plan.id}-{index}.{plan.id}" for index in range(plan.nodes)]
    entry = [
        *(containers.PYTHON_INSIDE, f"{containers.CODE_INSIDE}/node.py"),
        *("--hostfile", "/job/hostfile", "--run", plan.id, "--folder", folder, "--wait", "1800", "--"),
        *command.ranks(plan, folder, "/job/ds_config.json"),
    ]
    text = templates.text(
        "kubernetes/job.yaml.j2",
        plan=plan,
        kubernetes=kubernetes,
        labels=labels,
        job_labels=labels | queue,
        selector={"launcher/run": plan.id},
        hostfile=hostfile.text(hosts, plan.slots),
        config=json.dumps(plan.config, indent=1),
        command=entry,
        folder=folder,
        resources=_resources(plan),
        volume_mounts=mounts,
        volumes=volumes,
    )
    return {"manifest.yaml": text}


def _resources(plan: Plan) -> dict[str, Any]:
    limits: dict[str, str] = {k: str(v) for k, v in plan.fabric.resources.items()}
    if plan.gpu:
        limits["nvidia.com/gpu"] = str(plan.slots)
    requests = dict(limits)
    if plan.cluster.cpus:
        requests["cpu"] = str(plan.cluster.cpus)
    return {"limits": limits, "requests": requests} if limits or requests else {}


def _volumes(plan: Plan) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(volumes, volumeMounts) of a pod: the job's files, /dev/shm, scratch, run folders, and the cluster's mounts."""
    claim = plan.cluster.kubernetes.runs
    volumes: list[dict[str, Any]] = [
        {"name": "job", "configMap": {"name": plan.id}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "runs", "persistentVolumeClaim": {"claimName": claim}}
        if claim
        else {"name": "runs", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "job", "mountPath": "/job", "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "scratch", "mountPath": plan.cluster.scratch},
        {"name": "runs", "mountPath": FOLDER},
    ]
    for number, mount in enumerate(plan.mounts):
        name = f"mount-{number}"
        if mount.claim:
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": mount.claim}})
        else:
            volumes.append({"name": name, "hostPath": {"path": mount.host or mount.inside}})
        mounts.append({"name": name, "mountPath": mount.inside, "readOnly": mount.readonly})
    return volumes, mounts


def submit(plan: Plan, files: Files) -> str:
    """Apply the manifest server-side. Returns the Job's uid."""
    from launcher.schedulers import cluster_api

    return cluster_api.apply(plan, files["manifest.yaml"])


def status(run: Run) -> Status:
    """From the Job's conditions and its pods."""
    from launcher.schedulers import cluster_api

    return cluster_api.status(run)


def logs(run: Run, selection: Selection) -> Iterator[str]:
    """The pods' logs: of the pod that has the rank, or that is the host; default: the first."""
    from launcher.schedulers import cluster_api

    return cluster_api.logs(run, selection)


def cancel(run: Run) -> None:
    """Delete the run's objects."""
    from launcher.schedulers import cluster_api

    cluster_api.cancel(run)

"""Why a run waits: what the scheduler, the kubelet, quotas and Kueue say, in words.

Owns these words and where each is found; whether the run waits at all is following.py's to say.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from launcher import exit_codes
from launcher.schedulers.kubernetes import api, hosts

if TYPE_CHECKING:
    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place
    from launcher.schedulers.kubernetes.hosts import Pod


def meaning(code: object) -> str:
    """What an exit code of ours says, to be put behind it; '' for any other."""
    known = exit_codes.BY_CODE.get(code) if isinstance(code, int) else None
    return f", {known.meaning}" if known else ""


def why(server: Server, at: Place, pod: Pod) -> str:
    """Why a pod does not run, in words; '' when it does, or has ended."""
    name, state = pod["metadata"]["name"], pod.get("status", {})
    deleted = pod["metadata"].get("deletionTimestamp")
    if deleted:
        return _leaving(server, pod, deleted)
    if state.get("phase") not in {"Pending", "Running", None}:
        return ""
    for condition in state.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            if condition.get("reason") == "SchedulingGated":
                return "pods are gated (.spec.schedulingGates) until they are admitted together"
            return f"no node fits: {condition.get('message', 'no reason given')}"
    containers = [*state.get("initContainerStatuses", []), *state.get("containerStatuses", [])]
    for container in containers:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in {"ContainerCreating", "PodInitializing", None}:
            return _held(container, waiting)
    if state.get("phase") == "Pending" or any("waiting" in c.get("state", {}) for c in containers):
        return _event(server, at, name) or f"{name} is starting"
    return ""


def _held(container: Pod, waiting: Pod) -> str:
    """Why a container waits, by the kubelet's reason."""
    reason, message = waiting["reason"], waiting.get("message", "")
    if reason in {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "RegistryUnavailable",
    }:
        hint = ""
        if container["name"] == "init-pytorch":
            hint = " (the training operator's own init container: its flag --pytorch-init-container-image)"
        return f"image {container.get('image', '?')} cannot be pulled{hint}: {message or reason}"
    if reason == "CrashLoopBackOff":
        code = container.get("lastState", {}).get("terminated", {}).get("exitCode", "?")
        return f"it ended with {code}{meaning(code)} and is restarted after a back-off (CrashLoopBackOff)"
    if reason == "CreateContainerConfigError":
        return f"a ConfigMap, Secret or key that it needs is missing: {message}"
    return f"{reason}: {message}" if message else str(reason)


def _leaving(server: Server, pod: Pod, deleted: str) -> str:
    """A pod that is being deleted. Its time is over at `deleted`; then only a node that is gone still holds it."""
    node, name = pod["spec"].get("nodeName", ""), pod["metadata"]["name"]
    if time.time() < hosts.seconds(deleted) + 30 or not node:
        return f"{name} ends"
    with contextlib.suppress(api.Refusal):
        found = server.get(f"/api/v1/nodes/{node}")
        ready = [c for c in found.get("status", {}).get("conditions", []) if c["type"] == "Ready"]
        if ready and ready[0]["status"] == "True":
            return f"{name} should have terminated by now"
    return (
        f"node {node} is lost and still has {name}: `kubectl delete node {node}`, or taint it"
        " node.kubernetes.io/out-of-service=lost:NoExecute, so that a new pod is created"
    )


def suspended(server: Server, at: Place, main: Pod) -> str:
    """What Kueue says of a suspended object."""
    uid = main["metadata"]["uid"]
    with contextlib.suppress(api.Refusal):
        group = server.get("/apis/kueue.x-k8s.io")
        version = group["preferredVersion"]["version"]
        where = f"/apis/kueue.x-k8s.io/{version}/namespaces/{at.namespace}/workloads"
        for workload in server.get(where).get("items", []):
            if uid not in {o.get("uid") for o in workload["metadata"].get("ownerReferences", [])}:
                continue
            for condition in workload.get("status", {}).get("conditions", []):
                if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                    return f"waiting for quota in Kueue: {condition.get('message', '')}"
                if condition["type"] == "Evicted" and condition["status"] == "True":
                    return f"evicted by Kueue: {condition.get('message', '')}"
            return "waiting for Kueue's admission"
    return "suspended (.spec.suspend): another controller has to resume it"


def not_made(server: Server, at: Place) -> str:
    """Why pods are not made: the warnings of the run's objects, such as an exceeded quota."""
    return _event(server, at, at.name, about="FailedCreate")


def _event(server: Server, at: Place, name: str, about: str = "") -> str:
    """The newest warning about an object whose name starts with `name`; '' when there is none, or it is forbidden."""
    with contextlib.suppress(api.Refusal):
        events = f"/api/v1/namespaces/{at.namespace}/events"
        answer = server.get(events, fieldSelector="type=Warning", limit=500)
        found = [
            event
            for event in answer.get("items", [])
            if str(event.get("involvedObject", {}).get("name", "")).startswith(name)
            and about in event.get("reason", "")
        ]
        newest: Any = max(
            found, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime")), default=None
        )
        if newest:
            return f"{newest.get('reason')}: {newest.get('message', '').strip()}"
    return ""

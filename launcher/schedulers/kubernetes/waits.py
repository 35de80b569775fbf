"""Why a run waits: what the scheduler, the kubelet, quotas and Kueue say, in words.

Owns these words and where each is found; whether the run waits at all is following.py's to say.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Literal

from launcher import exit_codes, units
from launcher.schedulers.kubernetes import api, hosts, kinds

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place
    from launcher.schedulers.kubernetes.hosts import Pod

_LATE = 30.0  # seconds after a pod's grace period in which a kubelet that lives has removed it
_NOT_PULLED = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
)
# What a controller names the objects below the run's own, behind its name. Nothing else: equal jobs are NAME, NAME-2 …
_BELOW = {
    "jobset": "-(?:node|leader|worker)-0",
    "trainjob": "-node-0",
    "mpijob": "-launcher",
    "leaderworkerset": "-[0-9]+",
}
_UNATTENDED = 60.0  # seconds in which a controller that runs has written a status


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
    if unscheduled := hosts.condition(pod, "PodScheduled", "False"):
        if unscheduled.get("reason") == "SchedulingGated":
            return "pods are gated (.spec.schedulingGates) until they are admitted together"
        return f"no node fits: {unscheduled.get('message', 'no reason given')}"
    if words := _unseen(pod):
        return words
    containers = [*state.get("initContainerStatuses", []), *state.get("containerStatuses", [])]
    for container in containers:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in {"ContainerCreating", "PodInitializing", None}:
            return _held(container, waiting)
    if state.get("phase") == "Pending" or any("waiting" in c.get("state", {}) for c in containers):
        return _event(server, at, lambda event: _holds(event, pod), f"{name} is starting")
    ended = [e for c in containers if (e := c.get("state", {}).get("terminated")) and e.get("exitCode")]
    if ended:
        code = ended[0]["exitCode"]
        return f"{name} ended with {code}{meaning(code)} and is restarted"
    return ""


def _unseen(pod: Pod) -> str:
    """That no scheduler takes care of a pod; '' for one that has a node, or a condition or a time to get one."""
    state, age = pod.get("status", {}), time.time() - hosts.seconds(pod["metadata"].get("creationTimestamp"))
    seen = pod["spec"].get("nodeName") or state.get("conditions") or state.get("containerStatuses")
    if seen or age < _UNATTENDED:
        return ""
    scheduler = pod["spec"].get("schedulerName", "default-scheduler")
    return f"scheduler {scheduler} has not looked at {pod['metadata']['name']} for {units.brief(age)}: is it installed?"


def _held(container: Pod, waiting: Pod) -> str:
    """Why a container waits, by the kubelet's reason."""
    reason, message = waiting["reason"], waiting.get("message", "")
    if reason in _NOT_PULLED:
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


def _holds(event: Pod, pod: Pod) -> bool:
    """Whether an event tells why a pod that has a node does not start."""
    about, own = event.get("involvedObject", {}), pod["metadata"]
    is_of_pod = about.get("name") == own["name"] and about.get("uid", own.get("uid")) == own.get("uid")
    return is_of_pod and event.get("reason") != "FailedScheduling"  # which was before


def lost(server: Server, pod: Pod) -> str:
    """That the node of a pod which is said to run does not answer; '' when it does.

    Kubernetes then makes the pod's Ready condition false, and its containers keep the last state that was heard of.
    """
    running = any("running" in c.get("state", {}) for c in hosts.containers(pod))
    if pod["metadata"].get("deletionTimestamp") or not running or not hosts.condition(pod, "Ready", "False"):
        return ""
    node, name = pod["spec"].get("nodeName", ""), pod["metadata"]["name"]
    if _node(server, node) != "not ready":
        return ""
    return (
        f"node {node} does not answer, with {name} on it: if it stays away, `kubectl delete node {node}` makes room for"
        " a new pod"
    )


def _leaving(server: Server, pod: Pod, deleted: str) -> str:
    """A pod that is being deleted: it ends, or only a node that is gone still holds it."""
    node, name = pod["spec"].get("nodeName", ""), pod["metadata"]["name"]
    state, late = _node(server, node), time.time() > hosts.seconds(deleted) + _LATE
    if state == "not ready" or (state == "unknown" and node and late):
        return (
            f"node {node} is lost and still has {name}: `kubectl delete node {node}`, or taint it"
            " node.kubernetes.io/out-of-service=lost:NoExecute, so that a new pod is created"
        )
    if state == "gone":
        return f"node {node} was deleted: Kubernetes removes {name} within a minute, and a new pod is created"
    return f"{name} should have terminated by now" if late else f"{name} ends"


def _node(server: Server, name: str) -> Literal["ready", "not ready", "gone", "unknown"]:
    """How a node is; unknown without a name, and where RBAC forbids to read it."""
    if not name:
        return "unknown"
    try:
        node = server.get(f"/api/v1/nodes/{name}")
    except api.Refusal as refusal:
        return "gone" if refusal.status == 404 else "unknown"
    return "ready" if hosts.condition(node, "Ready", "True") else "not ready"


def restarted(at: Place, pods: list[Pod]) -> str:
    """Which container the kubelet restarted, and why; '' when none."""
    for pod in pods:
        for container in hosts.containers(pod, kinds.KINDS[at.kind].container):
            ended = container.get("lastState", {}).get("terminated")
            if ended and ended.get("exitCode") and container.get("restartCount"):
                code, times = ended["exitCode"], container["restartCount"]
                return f"restarts of {hosts.name(pod)}: {times}; last it ended with {code}{meaning(code)}"
    return ""


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


def not_made(server: Server, at: Place, main: Pod) -> str:
    """Why pods are not made: no controller, or a warning of the run's objects, such as an exceeded quota."""
    kind, age = kinds.KINDS[at.kind], time.time() - hosts.seconds(main["metadata"].get("creationTimestamp"))
    if not main.get("status") and age > _UNATTENDED:
        install = f"; install it: {kind.install}" if kind.install else ""
        return f"no controller has taken up the {kind.kind} for {units.brief(age)}{install}"
    named = re.compile(f"{re.escape(at.name)}({_BELOW.get(at.kind, '')})?", re.ASCII)

    def tells(event: Pod) -> bool:
        about = event.get("involvedObject", {})
        of_another = about.get("kind") == kind.kind and about.get("uid", at.uid) != at.uid
        return bool(
            named.fullmatch(about.get("name", ""))
            and not of_another  # an earlier one of the same name
            and "FailedCreate" in event.get("reason", "")
        )

    return _event(server, at, tells, "pods are being created")


def _event(server: Server, at: Place, tells: Callable[[Pod], bool], otherwise: str) -> str:
    """The newest of the warnings that tell it; `otherwise` when there is none."""
    events = f"/api/v1/namespaces/{at.namespace}/events"
    try:
        warnings = [
            event for event in hosts.pages(server, events, fieldSelector="type=Warning") if tells(event)
        ]
    except api.Refusal as refusal:
        return (
            f"{otherwise} (RBAC forbids to list events, which say more)"
            if refusal.status == 403
            else otherwise
        )
    newest: Any = max(warnings, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime")), default=None)
    return f"{newest.get('reason')}: {newest.get('message', '').strip()}" if newest else otherwise

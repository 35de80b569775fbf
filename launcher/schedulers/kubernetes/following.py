"""How a run is: from its object's conditions and its pods.

Owns Kubernetes' words for states and ends; why a run waits is waits.py's.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from launcher.runs.status import Status
from launcher.schedulers.kubernetes import api, applying, hosts, kinds, mirror, waits

if TYPE_CHECKING:
    from launcher.runs.record import Run
    from launcher.runs.status import State
    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place
    from launcher.schedulers.kubernetes.hosts import Pod

# The condition by which each controller says that it is over.
_DONE: dict[str, State] = {
    "Complete": "SUCCEEDED",
    "Completed": "SUCCEEDED",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
}

_REASONS = {
    "BackoffLimitExceeded": "it failed more often than `restarts` of the job allows",
    "DeadlineExceeded": "its walltime is over; ranks got SIGTERM to save: a new run with checkpoint.resume continues",
    "PodFailurePolicy": "its exit code is one that a restart cannot help",
    "FailJobSetAction": "its exit code is one that a restart cannot help",
    "ReachedMaxRestarts": "it failed more often than `restarts` of the job allows",
}


def status(run: Run) -> Status:
    """How `run` is now. PENDING until every host runs; CANCELLED when its object is gone or going."""
    at = applying.place(run)
    server = api.connect(at.context or None)
    kind = kinds.KINDS[at.kind]
    try:
        main = server.get(api.path(kind, at.namespace, at.name))
    except api.Refusal as refusal:
        if refusal.status == 404:
            return Status("CANCELLED", f"the {kind.kind} was deleted")
        raise
    if at.uid and main["metadata"]["uid"] != at.uid:
        return Status("CANCELLED", f"the {kind.kind} was deleted; another one has its name")
    pods = hosts.pods(server, at, run)
    newest = hosts.newest(at, pods)
    names = tuple(hosts.name(pod) for pod in newest.values())
    if main["metadata"].get("deletionTimestamp"):
        return Status("CANCELLED", "being deleted: ranks save during the grace period", None, names)
    with contextlib.suppress(api.Refusal):
        mirror.metrics(server, at, run, newest.get(0))
    conditions = {c["type"]: c for c in main.get("status", {}).get("conditions", []) if c["status"] == "True"}
    over = next((word for word in _DONE if word in conditions), None)
    if over is None:
        return _going(server, at, run, main=main, pods=pods)
    if _DONE[over] == "SUCCEEDED":
        return Status("SUCCEEDED", "", 0, names)
    first = first_failure(at, pods)
    if first:
        with contextlib.suppress(api.Refusal):
            mirror.failure(server, at, run, first[0])
    code, reason = _failure(conditions[over], first)
    return Status("FAILED", reason, code, names)


def _failure(condition: dict[str, Any], first: tuple[Pod, dict[str, Any]] | None) -> tuple[int | None, str]:
    """(exit code, why) of a failed run."""
    word = str(condition.get("reason", ""))
    reason = _REASONS.get(word) or str(condition.get("message") or word)
    if not first:
        return None, reason
    pod, ended = first
    code = int(ended["exitCode"])
    told = f"{hosts.name(pod)} ended with {code}{waits.meaning(code)}"
    words = [line for line in ended.get("message", "").splitlines() if line.strip()]
    last = f": {words[-1].strip()[:200]}" if words else ""
    return code, f"{reason}; {told}{last}"


def first_failure(at: Place, pods: list[Pod]) -> tuple[Pod, dict[str, Any]] | None:
    """The pod that failed first in the last attempt, and its container's end: the others followed it."""
    ends: list[tuple[float, Pod, dict[str, Any]]] = []
    for pod in pods:
        for container in hosts.containers(pod, kinds.KINDS[at.kind].container):
            for state in (container.get("state", {}), container.get("lastState", {})):
                ended = state.get("terminated")
                if ended and ended.get("exitCode"):
                    ends.append((hosts.seconds(ended.get("finishedAt")), pod, ended))
    newest = max((end[0] for end in ends), default=0.0)
    # node entries end within a minute of each other
    last = min((end for end in ends if end[0] >= newest - 90), key=lambda end: end[0], default=None)
    return (last[1], last[2]) if last else None


def _going(server: Server, at: Place, run: Run, main: dict[str, Any], pods: list[Pod]) -> Status:
    """The status of a run that is not over."""
    newest = hosts.newest(at, pods)
    names = tuple(hosts.name(pod) for pod in newest.values())
    # a LeaderWorkerSet has several pods of one index, one a group
    groups = int(main["spec"].get("replicas", 1)) if at.kind == "leaderworkerset" else 1
    counted = pods if groups > 1 else list(newest.values())
    running, wanted = sum(hosts.runs(at, pod) for pod in counted), run.nodes * groups
    if running >= wanted:
        return Status("RUNNING", "", None, names)
    why = next((words for pod in counted if (words := waits.why(server, at, pod))), "")
    policy = main["spec"].get("runPolicy", {})
    if not why and (main["spec"].get("suspend") or policy.get("suspend")):
        why = waits.suspended(server, at, main)
    if not why and len(newest) < run.nodes:
        why = waits.not_made(server, at) or "pods are being created"
    some = f"{running} of {wanted} pods run; " if running else ""
    return Status("PENDING", some + (why or "pods are starting"), None, names)

"""How a run is: from its object's conditions and its pods.

Owns Kubernetes' words for states and ends; why a run waits is waits.py's.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from launcher.runs.status import Status
from launcher.schedulers.kubernetes import api, applying, ends, hosts, kept, kinds, mirror, unfit, waits

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


def status(run: Run) -> Status:
    """How `run` is now. PENDING until every host runs; CANCELLED when its object goes before it has ended."""
    server, at = applying.reach(run)
    kind = kinds.KINDS[at.kind]
    try:
        main = server.get(api.path(kind, at.namespace, at.name))
    except api.Refusal as refusal:
        if refusal.status == 404:
            return kept.ended(run, at.uid) or Status("CANCELLED", f"the {kind.kind} was deleted")
        raise
    if at.uid and main["metadata"]["uid"] != at.uid:
        gone = Status("CANCELLED", f"the {kind.kind} was deleted; another one has its name")
        return kept.ended(run, at.uid) or gone
    pods = hosts.pods(server, at, run)
    bad = unfit.found(at, pods)
    unfit.keep(run, bad)
    newest = hosts.newest(at, pods)
    names = tuple(hosts.name(pod) for pod in newest.values())
    if main["metadata"].get("deletionTimestamp"):
        mirror.everything(server, at, run, newest)
        going = Status("CANCELLED", "being deleted: ranks save during the grace period", None, names)
        return kept.ended(run, at.uid) or going
    mirror.metrics(server, at, run, newest.get(0))
    conditions = {c["type"]: c for c in main.get("status", {}).get("conditions", []) if c["status"] == "True"}
    over = next((word for word in _DONE if word in conditions), None)
    if over is None:
        before = f"after an attempt in which {bad[-1]}" if bad else ""
        return _going(server, at, run, main=main, pods=pods, before=before)
    if _DONE[over] == "SUCCEEDED":
        return kept.end(run, at.uid, Status("SUCCEEDED", "", 0, names))
    first = ends.first(at, pods)
    if first:
        with contextlib.suppress(api.Refusal):
            mirror.failure(server, at, run, first)
    code, reason = ends.failure(server, at, conditions[over], first=first, pods=pods)
    if first and first.code == unfit.CODE and bad:
        reason += f"; {bad[-1]}"
    return kept.end(run, at.uid, Status("FAILED", reason, code, names))


def _going(
    server: Server, at: Place, run: Run, *, main: dict[str, Any], pods: list[Pod], before: str
) -> Status:
    """The status of a run that is not over. `before`: how its last attempt ended, where nothing else is to be said."""
    newest = hosts.newest(at, pods)
    names = tuple(hosts.name(pod) for pod in newest.values())
    # a LeaderWorkerSet has several pods of one index, one a group
    groups = int(main["spec"].get("replicas", 1)) if at.kind == "leaderworkerset" else 1
    counted = pods if groups > 1 else list(newest.values())
    lost = [words for pod in counted if (words := waits.lost(server, pod))]
    running, wanted = sum(hosts.runs(at, pod) for pod in counted) - len(lost), run.nodes * groups
    done = sum(pod.get("status", {}).get("phase") == "Succeeded" for pod in counted)  # before its object is
    if running + done >= wanted:
        return Status("RUNNING", waits.restarted(at, counted) or before, None, names)
    told = itertools.chain(
        lost,
        (words for pod in counted if (words := waits.why(server, at, pod))),  # may be a request
        (f"{hosts.name(pod)}: {words}" for pod in counted if (words := ends.by_node(pod))),
    )
    why = next(told, "")
    policy = main["spec"].get("runPolicy", {})
    if not why and (main["spec"].get("suspend") or policy.get("suspend")):
        why = waits.suspended(server, at, main)
    if not why and len(newest) < run.nodes:
        why = waits.not_made(server, at, main)
    some = f"{running} of {wanted} pods run; " if running else ""
    return Status("PENDING", some + (why or before or "pods are starting"), None, names)

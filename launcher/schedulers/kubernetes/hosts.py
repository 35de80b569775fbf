"""The pods of a run: which there are, and which host each is.

Owns how pods are found and matched with the hostfile's order; what they say is waits.py's and podlogs.py's.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from launcher.schedulers.kubernetes import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.runs.record import Run
    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place

Pod = dict[str, Any]


def pods(server: Server, at: Place, run: Run) -> list[Pod]:
    """Every pod of the run that the server still has, the oldest first."""
    label = kinds.KINDS[at.kind].label
    selector = f"{label}={at.name}" if label else f"launcher/run={run.id}"
    found = pages(server, f"/api/v1/namespaces/{at.namespace}/pods", labelSelector=selector)
    return sorted(found, key=lambda p: str(p["metadata"].get("creationTimestamp")))


def pages(server: Server, path: str, **selector: str) -> Iterator[dict[str, Any]]:
    """Every object of the list at `path` that is selected."""
    token = ""
    while True:
        answer = server.get(path, limit=500, **selector, **({"continue": token} if token else {}))
        yield from answer.get("items", [])
        token = answer.get("metadata", {}).get("continue", "")
        if not token:
            return


def index(at: Place, pod: Pod) -> int | None:
    """The pod's index among the run's hosts; None for one that is none of them."""
    return kinds.index(at.kind, pod["metadata"]["name"], pod["metadata"].get("labels", {}))


def newest(at: Place, pods: list[Pod]) -> dict[int, Pod]:
    """The newest pod of each host, by index."""
    by_index = {i: pod for pod in pods if (i := index(at, pod)) is not None}
    return dict(sorted(by_index.items()))


def name(pod: Pod) -> str:
    """A pod for a person: its host name, and the node it is on."""
    shown = str(pod["spec"].get("hostname") or pod["metadata"]["name"])
    return f"{shown} on {pod['spec']['nodeName']}" if pod["spec"].get("nodeName") else shown


def names(pod: Pod) -> list[str]:
    """What a person may call the host of `pod`: its host name, the pod's name, the node's."""
    spec = pod["spec"]
    return [str(n) for n in (spec.get("hostname"), pod["metadata"]["name"], spec.get("nodeName")) if n]


def attempts(at: Place, pods: list[Pod], wanted: int) -> list[Pod]:
    """The pods that the host `wanted` has had, the newest last; of several groups that share indices the last one's."""
    mine = [pod for pod in pods if index(at, pod) == wanted]
    return mine[-1:] if at.kind == "leaderworkerset" else mine


def containers(pod: Pod, named: str = "") -> list[dict[str, Any]]:
    """The statuses of the pod's containers, or of the one `named`."""
    statuses: list[dict[str, Any]] = pod.get("status", {}).get("containerStatuses") or []
    return [c for c in statuses if not named or c["name"] == named]


def condition(observed: Pod, kind: str, status: str) -> dict[str, Any] | None:
    """The condition `kind` of a pod, node or other object, if it has this status."""
    conditions: list[dict[str, Any]] = observed.get("status", {}).get("conditions", [])
    return next((c for c in conditions if (c["type"], c["status"]) == (kind, status)), None)


def runs(at: Place, pod: Pod) -> bool:
    """Whether the node entry runs in it, and it is not being deleted."""
    ours = containers(pod, kinds.KINDS[at.kind].container)
    return not pod["metadata"].get("deletionTimestamp") and any("running" in c.get("state", {}) for c in ours)


def seconds(text: str | None) -> float:
    """An RFC 3339 time, of any number of digits, as Unix time in whole seconds; 0 for none."""
    if not text:
        return 0.0
    offset = "+00:00" if text.endswith("Z") else text[-6:]
    return datetime.fromisoformat(text[:19] + offset).timestamp()

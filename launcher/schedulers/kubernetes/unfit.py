"""Hosts that failed preflight: the nodes that their pods were on, and pods that are kept off such nodes.

Owns the way from a host's name in the last words of a pod to a node, and onto the list of `--exclude-bad`. A controller
makes a failed pod anew from the same template, so within a run nothing keeps it off a node; its next submission does.
"""

from __future__ import annotations

import contextlib
import copy
import re
from typing import TYPE_CHECKING, Any

from launcher import exit_codes
from launcher.namedtuple import NamedTuple
from launcher.runs import badhosts
from launcher.schedulers.kubernetes import hosts, kinds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from launcher.runs.record import Run
    from launcher.schedulers.kubernetes.applying import Object, Place
    from launcher.schedulers.kubernetes.hosts import Pod

CODE = exit_codes.BY_NAME["UNFIT"].code
_SAID = re.compile(r"error: (\S+) is not fit for this job: (.+)")  # docker/preflight.py
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class Unfit(NamedTuple):
    """A host that failed preflight: `at` is when, as Unix time; `node` is '' where no pod tells it any more."""

    host: str
    node: str
    why: str
    at: float

    def __str__(self) -> str:
        return f"{self.host}{f' on {self.node}' if self.node else ''} failed preflight: {self.why}"


def found(at: Place, pods: Sequence[Pod]) -> list[Unfit]:
    """The hosts that pods have named, the newest last, each once an attempt."""
    ends = [(pod, end) for pod in pods for end in _ends(at, pod)]
    named: dict[tuple[str, str], Unfit] = {}
    for _, end in ends:
        if said := _SAID.search(end.get("message") or ""):
            host, finished = said[1].partition(".")[0], hosts.seconds(end.get("finishedAt"))
            times = {
                pod["spec"].get("nodeName", ""): abs(hosts.seconds(own.get("finishedAt")) - finished)
                for pod, own in ends
                if host in hosts.names(pod)
            }
            node = min(times, key=times.__getitem__, default="")  # of several pods that of the same attempt
            named[host, node] = Unfit(host, node, said[2].strip(), finished)
    return sorted(named.values(), key=lambda one: one.at)


def _ends(at: Place, pod: Pod) -> Iterator[dict[str, Any]]:
    for container in hosts.containers(pod, kinds.KINDS[at.kind].container):
        for state in (container.get("state", {}), container.get("lastState", {})):
            ended = state.get("terminated")
            if ended and ended.get("exitCode") == CODE:
                yield ended


def keep(run: Run, unfit: Sequence[Unfit]) -> None:
    """Put their nodes on the list of `--exclude-bad`, each once."""
    for one in unfit:
        if one.node:
            with contextlib.suppress(OSError):  # the status is worth more than the list
                badhosts.add(run.folder.parent, one.node, f"{one.why}, run {run.id}", one.at)


def without(affinity: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """`affinity` of a pod that also keeps it off `nodes`.

    By name, one node a field: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#node-affinity
    (terms are alternatives, so that each gets them).
    """
    if not nodes:
        return dict(affinity)
    changed = copy.deepcopy(dict(affinity))
    required = changed.setdefault("nodeAffinity", {}).setdefault(_REQUIRED, {})
    off = list(map(_off, nodes))
    terms = required.get("nodeSelectorTerms") or [{}]
    required["nodeSelectorTerms"] = [
        {**term, "matchFields": [*(term.get("matchFields") or ()), *off]} for term in terms
    ]
    return changed


def _off(node: str) -> dict[str, Any]:
    return {"key": "metadata.name", "operator": "NotIn", "values": [node]}


def allowed(spec: Object, nodes: Sequence[str]) -> list[str]:
    """Those of `nodes` that the affinity of a pod's spec does not keep it off."""
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(_REQUIRED) or {}
    terms = required.get("nodeSelectorTerms") or [{}]
    return [
        node for node in nodes if not all(_off(node) in (term.get("matchFields") or ()) for term in terms)
    ]


def avoid(documents: Sequence[Object], nodes: Sequence[str]) -> bool:
    """Keep the pods of a manifest off `nodes`, in place. Returns whether it has any; a runtime's are elsewhere."""
    specs = [spec for document in documents for spec in _pod_specs(document)]
    for spec in specs:
        spec["affinity"] = without(spec.get("affinity") or {}, nodes)
    return bool(specs)


def _pod_specs(node: Any) -> Iterator[Object]:
    """Every spec of a pod below `node`."""
    if isinstance(node, list):
        for entry in node:
            yield from _pod_specs(entry)
    elif isinstance(node, dict):
        spec = node.get("spec")
        if isinstance(spec, dict) and "containers" in spec:
            yield spec
            return
        for entry in node.values():
            yield from _pod_specs(entry)

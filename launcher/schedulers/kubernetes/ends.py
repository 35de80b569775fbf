"""Why a run failed: from its object's condition, the Jobs below it, and how its containers ended.

Owns the controllers' reasons and which pod was the first; that a run is over at all is following.py's to say.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.schedulers.kubernetes import api, hosts, kinds, waits

if TYPE_CHECKING:
    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place
    from launcher.schedulers.kubernetes.hosts import Pod

OOM = "OOMKilled"  # what the kubelet says of a container that went above its memory limit
# By the condition's reason. JobSet: https://github.com/kubernetes-sigs/jobset/blob/v0.12.0/pkg/constants/constants.go
_REASONS = {
    "BackoffLimitExceeded": "it failed more often than `restarts` of the job allows",
    "ReachedMaxRestarts": "it failed more often than `restarts` of the job allows",
    "DeadlineExceeded": "its walltime is over; ranks got SIGTERM to save: `launcher resume RUN` continues",
    "PodFailurePolicy": "its exit code is one that a restart cannot help",
}
# What the Job controller says of the pod that a FailJob rule matched:
# https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/controller/job/pod_failure_policy.go
_MATCHED = re.compile(
    r"Container \S+ for pod [^/\s]+/(\S+) failed with exit code (\d+) matching FailJob rule"
)
# docker/workloads/session.py: this rank only lost another one
_FOLLOWED = "another rank is gone"


class End(NamedTuple):
    """A pod whose container ended with a failure: `state` is its `terminated`."""

    pod: Pod
    state: dict[str, Any]

    @property
    def code(self) -> int:
        return int(self.state["exitCode"])

    @property
    def of_node(self) -> str:
        """Why the node ended the pod, or did not take it, in the kubelet's words; '' where a container just ended."""
        return by_node(self.pod)

    @property
    def out_of_memory(self) -> bool:
        return self.state.get("reason") == OOM


def failure(
    server: Server, at: Place, condition: dict[str, Any], *, first: End | None, pods: list[Pod]
) -> tuple[int | None, str]:
    """(exit code, why) of a failed run, whose object has `condition`."""
    word, message = str(condition.get("reason", "")), str(condition.get("message") or "")
    reason = _REASONS.get(word)
    if reason is None and at.kind in {"jobset", "trainjob"}:
        # JobSet says only that a rule matched; what the rule saw is in the Job that failed
        word, message = _child(server, at) or (word, message)
        reason = _REASONS.get(word)
    reason = reason or message or word
    if first:
        return first.code, f"{reason}; {_words(at, first)}"
    matched = _MATCHED.search(message)
    if not matched:
        words = [f"{hosts.name(pod)}: {said}" for pod in pods if (said := by_node(pod))]
        return None, "; ".join([reason, *words[-1:]])
    code = int(matched[2])
    return code, f"{_REASONS['PodFailurePolicy']}; {matched[1]} ended with {code}{waits.meaning(code)}"


def _child(server: Server, at: Place) -> tuple[str, str] | None:
    """(reason, message) of the Job of a JobSet that failed first; None when there is none, or it is forbidden."""
    label = kinds.KINDS["jobset"].label
    with contextlib.suppress(api.Refusal):
        jobs = server.get(api.path(kinds.KINDS["job"], at.namespace), labelSelector=f"{label}={at.name}")
        conditions = (hosts.condition(job, "Failed", "True") for job in jobs.get("items", []))
        if failed := [condition for condition in conditions if condition]:
            one = min(failed, key=lambda c: hosts.seconds(c.get("lastTransitionTime")))
            return str(one.get("reason", "")), str(one.get("message") or "")
    return None


def _words(at: Place, end: End) -> str:
    name, code = hosts.name(end.pod), end.code
    if end.out_of_memory:
        return f"{name} ended with {code}: {memory(at, end.pod)}"
    if end.of_node:
        return f"{name} ended with {code}: {end.of_node}"
    lines = [line.strip() for line in end.state.get("message", "").splitlines() if line.strip()]
    own = [line for line in lines if _FOLLOWED not in line] or lines
    return f"{name} ended with {code}{waits.meaning(code)}{f': {own[-1][:200]}' if own else ''}"


def by_node(pod: Pod) -> str:
    """Why a node ended a pod, or did not take it, in the kubelet's words: Evicted, UnexpectedAdmissionError …

    https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/
    """
    state = pod.get("status", {})
    if state.get("phase") != "Failed" or not state.get("reason"):
        return ""
    return f"the node ended the pod ({state['reason']}): {str(state.get('message', '')).strip()[:300]}"


def memory(at: Place, pod: Pod) -> str:
    """That a pod went above its memory limit, with the limit."""
    container = kinds.KINDS[at.kind].container
    limits = [
        c.get("resources", {}).get("limits", {}).get("memory")
        for c in pod["spec"].get("containers", [])
        if c["name"] == container
    ]
    limit = f" of {limits[0]}" if limits and limits[0] else ""
    return f"{OOM}: it used more than its memory limit{limit}, kubernetes.memory of the cluster file"


def first(at: Place, pods: list[Pod]) -> End | None:
    """The pod that failed first in the last attempt: the others followed it. One that ran out of memory comes first."""
    ends: list[tuple[float, End]] = []
    for pod in pods:
        for container in hosts.containers(pod, kinds.KINDS[at.kind].container):
            for state in (container.get("state", {}), container.get("lastState", {})):
                ended = state.get("terminated")
                if ended and ended.get("exitCode"):
                    ends.append((hosts.seconds(ended.get("finishedAt")), End(pod, ended)))
    newest = max((seconds for seconds, _ in ends), default=0.0)
    # node entries end within a minute of each other
    last = [(not end.out_of_memory, seconds, end) for seconds, end in ends if seconds >= newest - 90]
    return min(last, key=lambda entry: entry[:2])[2] if last else None

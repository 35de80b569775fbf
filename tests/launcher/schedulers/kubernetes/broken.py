"""A good manifest broken in one place each, in ways that schemas do not see and an API server refuses.

Owns the corpus: kube-apiserver 1.34 refused each. test_audit.py holds audit.py to it without a server, and
test_apiserver.py a real server.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Object = dict[str, Any]
Docs = dict[str, Object]  # by kind


def _pod(docs: Docs) -> Object:
    spec: Object = docs["Job"]["spec"]["template"]["spec"]
    return spec


def _node(docs: Docs) -> Object:
    container: Object = _pod(docs)["containers"][0]
    return container


def _put(where: Callable[[Docs], Object], **fields: Any) -> Callable[[Docs], None]:
    return lambda docs: where(docs).update(copy.deepcopy(fields))


def _job(docs: Docs) -> Object:
    spec: Object = docs["Job"]["spec"]
    return spec


def _named(kind: str, name: str) -> Callable[[Docs], None]:
    return lambda docs: docs[kind]["metadata"].update(name=name)


def _twice(key: str, **changes: Any) -> Callable[[Docs], None]:
    """The first entry of one of the container's lists once more, at the list's end."""
    return lambda docs: _node(docs)[key].append({**_node(docs)[key][0], **changes})


def _half(docs: Docs) -> None:
    for key in ("limits", "requests"):
        _node(docs)["resources"][key]["nvidia.com/gpu"] = "0.5"


BROKEN: dict[str, Callable[[Docs], None]] = {
    "restartPolicy Always in a Job": _put(_pod, restartPolicy="Always"),
    "completionMode in lower case": _put(_job, completionMode="indexed"),
    "completions missing": lambda docs: docs["Job"]["spec"].pop("completions"),
    "backoffLimitPerIndex without Indexed": _put(_job, backoffLimitPerIndex=1, completionMode="NonIndexed"),
    "selector set by hand": _put(_job, selector={"matchLabels": {"a": "b"}}),
    "exit codes not in order": lambda docs: docs["Job"]["spec"]["podFailurePolicy"]["rules"][1][
        "onExitCodes"
    ].update(values=[65, 64]),
    "exit codes of no container": lambda docs: docs["Job"]["spec"]["podFailurePolicy"]["rules"][1][
        "onExitCodes"
    ].update(containerName="other"),
    "pods replaced while they end": _put(_job, podReplacementPolicy="TerminatingOrFailed"),
    "memory in Gigs": lambda docs: _node(docs)["resources"]["limits"].update(memory="64Gigs"),
    "request of a device is not its limit": lambda docs: _node(docs)["resources"]["requests"].update(
        {"nvidia.com/gpu": "4"}
    ),
    "half a device": _half,
    "sizeLimit in Gigs": lambda docs: _pod(docs)["volumes"][1]["emptyDir"].update(sizeLimit="9Gigs"),
    "name in upper case": _named("Job", "Llama-7B"),
    "name of 62 characters, whose pods have longer ones": _named("Job", "x" * 62),
    "Service whose name begins with a digit and a dot": _named("Service", "7b.run"),
    "ConfigMap key with a slash": lambda docs: docs["ConfigMap"]["data"].update({"a/b": "x"}),
    "label value with a blank": lambda docs: docs["Job"]["metadata"]["labels"].update(team="a b"),
    "label value of 64 characters": lambda docs: docs["Job"]["metadata"]["labels"].update(team="x" * 64),
    "label key with a blank": lambda docs: docs["Job"]["metadata"]["labels"].update({"a b": "c"}),
    "mount without a volume": _twice("volumeMounts", name="nowhere", mountPath="/nowhere"),
    "two mounts on one path": _twice("volumeMounts"),
    "two containers of one name": lambda docs: _pod(docs)["containers"].append(copy.deepcopy(_node(docs))),
    "two volumes of one name": lambda docs: _pod(docs)["volumes"].append(
        copy.deepcopy(_pod(docs)["volumes"][0])
    ),
    "no image": _put(_node, image=""),
    "subdomain with an underscore": _put(_pod, subdomain="a_b"),
    "port 70000": _put(_node, ports=[{"containerPort": 70000}]),
    "reference to a field that is not there": lambda docs: _node(docs)["env"].append(
        {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.nme"}}}
    ),
    "variable with two sources": lambda docs: _node(docs)["env"].append(
        {"name": "X", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ),
    "toleration of every value with a value": lambda docs: _pod(docs)["tolerations"].append(
        {"key": "a", "operator": "Exists", "value": "b"}
    ),
    "tolerationSeconds of a taint that evicts nobody": lambda docs: _pod(docs)["tolerations"].append(
        {"key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 3}
    ),
    "host path with ..": lambda docs: _pod(docs)["volumes"].append(
        {"name": "up", "hostPath": {"path": "/a/../b"}}
    ),
    "volume of two kinds": lambda docs: _pod(docs)["volumes"].append(
        {"name": "both", "emptyDir": {}, "hostPath": {"path": "/a"}}
    ),
}


def broken(documents: list[Object], name: str) -> list[Object]:
    """A copy of `documents`, a run of kind job, with the fault `name`."""
    made = copy.deepcopy(documents)
    BROKEN[name]({d["kind"]: d for d in made})
    return made

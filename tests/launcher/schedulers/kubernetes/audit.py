"""What only an API server checks, written down a second time: names, labels, quantities, what must fit together.

Owns the judgement of whole manifests in tests. It shares no code with the launcher, so that one cannot hide what the
other overlooks. Each rule was seen in the answers of kube-apiserver 1.34 and 1.36 to a manifest that breaks it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.launcher.schedulers.kubernetes import schemas

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Object = dict[str, Any]
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[+-]?(\d+|\d+\.\d*|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_ENV = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_FIELDS = re.compile(
    r"metadata\.(name|namespace|uid)|metadata\.(labels|annotations)\['[^']+'\]|spec\.(nodeName|serviceAccountName)"
    r"|status\.(hostIP|hostIPs|podIP|podIPs)"
)
_RULE_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")


def problems(documents: Sequence[Object]) -> list[str]:
    """Everything a server would refuse in a manifest, or never run."""
    found: list[str] = []
    for document in documents:
        where = f"{document['kind']}/{document['metadata'].get('name', '')}"
        found += [f"{where}: {text}" for text in _document(document)]
    titles = [(d["kind"], d["metadata"]["name"]) for d in documents]
    found += [f"{kind}/{name} comes twice" for kind, name in set(titles) if titles.count((kind, name)) > 1]
    return found


def _document(document: Object) -> Iterator[str]:
    metadata, kind, spec = document["metadata"], document["kind"], document.get("spec", {})
    yield from _metadata(metadata)
    if not all(_LABEL.fullmatch(part) for part in metadata["name"].split(".")) or len(metadata["name"]) > 253:
        yield f"name {metadata['name']!r}"
    if kind == "Service" and (not _SERVICE.fullmatch(metadata["name"]) or len(metadata["name"]) > 63):
        yield f"a Service's name is a DNS-1035 label: {metadata['name']!r}"
    if kind == "ConfigMap":
        yield from _config_map(document["data"])
    if kind == "Job":
        yield from _job(spec, metadata["name"])
    if kind in {"JobSet", "TrainingRuntime"}:
        yield from _job_set(spec if kind == "JobSet" else spec["template"]["spec"], metadata["name"])
    if kind == "Service":
        yield from (f"port {p['port']}" for p in spec.get("ports", []) if not 1 <= p["port"] <= 65535)
    for template in schemas.pod_templates(document):
        yield from _metadata(template["metadata"])
        yield from pod(template["spec"])
    yield from _floats(document, kind)


def _metadata(metadata: Object) -> Iterator[str]:
    for key, value in metadata.get("labels", {}).items():
        if not _key(key):
            yield f"label key {key!r}"
        if not isinstance(value, str) or len(value) > 63 or not _VALUE.fullmatch(value):
            yield f"label {key} = {value!r}"
    for key, value in metadata.get("annotations", {}).items():
        if not _key(key) or not isinstance(value, str):
            yield f"annotation {key} = {value!r}"


def _key(key: str) -> bool:
    domain, slash, name = key.rpartition("/")
    right = bool(name) and len(name) <= 63 and bool(_VALUE.fullmatch(name))
    return right and (not slash or all(_LABEL.fullmatch(part) for part in domain.split(".")))


def _config_map(data: dict[str, str]) -> Iterator[str]:
    for key, text in data.items():
        if not re.fullmatch(r"[-._a-zA-Z0-9]+", key) or not isinstance(text, str):
            yield f"key {key!r}"
    if sum(len(k) + len(v.encode()) for k, v in data.items()) > 2**20:
        yield "more than a MiB"


def _job(spec: Object, name: str) -> Iterator[str]:
    if "selector" in spec or spec.get("manualSelector"):
        yield "a Job's selector is made by the server"
    if spec.get("completionMode") not in {"Indexed", "NonIndexed", None}:
        yield f"completionMode {spec['completionMode']!r}"
    indexed = spec.get("completionMode") == "Indexed"
    if indexed and "completions" not in spec:
        yield "an Indexed Job needs completions"  # and with a successPolicy its absence crashes the server
    if indexed and len(f"{name}-{spec.get('completions', 1) - 1}") > 63:
        yield "the host names of its pods are too long"
    if "backoffLimitPerIndex" in spec and not indexed:
        yield "backoffLimitPerIndex without Indexed"
    if not 0 <= spec.get("backoffLimit", 0) < 2**31:
        yield "backoffLimit"
    restart = spec["template"]["spec"].get("restartPolicy")
    if restart not in {"Never", "OnFailure"}:
        yield f"restartPolicy {restart!r} in a Job"
    yield from _failure_policy(spec, restart)


def _failure_policy(spec: Object, restart: str | None) -> Iterator[str]:
    if "podFailurePolicy" not in spec:
        return
    if restart != "Never":
        yield "podFailurePolicy needs restartPolicy Never"
    if spec.get("podReplacementPolicy") != "Failed":
        yield "podFailurePolicy needs podReplacementPolicy Failed"
    names = {c["name"] for c in spec["template"]["spec"]["containers"]}
    for rule in spec["podFailurePolicy"]["rules"]:
        if rule["action"] not in {"FailJob", "FailIndex", "Ignore", "Count"}:
            yield f"action {rule['action']!r}"
        codes = rule.get("onExitCodes")
        if codes and (
            codes["values"] != sorted(set(codes["values"])) or not 1 <= len(codes["values"]) <= 255
        ):
            yield f"exit codes {codes['values']}"
        if codes and (0 in codes["values"] or codes["containerName"] not in names):
            yield f"exit codes of {codes['containerName']}: {codes['values']}"


def _job_set(spec: Object, name: str) -> Iterator[str]:
    rules = spec.get("failurePolicy", {}).get("rules", [])
    names = [rule.get("name", "") for rule in rules]
    if len(set(names)) < len(names) or not all(_RULE_NAME.fullmatch(n) for n in names):
        yield f"failure policy rules {names}"
    for rule in rules:
        for pattern in rule.get("onJobFailureMessagePatterns", []):
            re.compile(pattern)
    known: list[str] = []
    for part in spec["replicatedJobs"]:
        job = part["template"]["spec"]
        if len(f"{name}-{part['name']}-{part['replicas'] - 1}-{job['completions'] - 1}-abcde") > 63:
            yield f"the pods of {part['name']} have too long names"
        if any(d["name"] not in known for d in part.get("dependsOn", [])):
            yield f"{part['name']} depends on what comes later"
        known.append(part["name"])
        yield from _job(job, f"{name}-{part['name']}-0")


def pod(spec: Object) -> Iterator[str]:
    """What a server would refuse in a pod's spec."""
    containers = [*spec["containers"], *spec.get("initContainers", [])]
    yield from _twice("container", [c["name"] for c in containers])
    volumes = [v["name"] for v in spec.get("volumes", [])]
    yield from _twice("volume", volumes)
    yield from _volumes(spec.get("volumes", []))
    for container in containers:
        yield from _container(container, volumes)
    for name in (spec.get("subdomain"), spec.get("hostname"), *volumes, *(c["name"] for c in containers)):
        if name is not None and (not _LABEL.fullmatch(name) or len(name) > 63):
            yield f"{name!r} is not a DNS label"
    for toleration in spec.get("tolerations", []):
        yield from _toleration(toleration)
    for key, value in spec.get("nodeSelector", {}).items():
        if not _key(key) or not _VALUE.fullmatch(value):
            yield f"nodeSelector {key}"
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
        yield "runAsNonRoot as user 0"
    if spec.get("terminationGracePeriodSeconds", 30) < 0:
        yield "terminationGracePeriodSeconds"


def _volumes(volumes: list[Object]) -> Iterator[str]:
    for volume in volumes:
        if len(set(volume) - {"name"}) != 1:
            yield f"volume {volume['name']} needs one source"
        if ".." in volume.get("hostPath", {}).get("path", "").split("/"):
            yield f"host path {volume['hostPath']['path']}"
        limit = volume.get("emptyDir", {}).get("sizeLimit", "1")
        if not _quantity(limit):
            yield f"sizeLimit {limit!r}"


def _container(container: Object, volumes: list[str]) -> Iterator[str]:
    name = container["name"]
    if not container.get("image", "").strip():
        yield f"{name} has no image"
    yield from _environment(container.get("env", []))
    mounts = container.get("volumeMounts", [])
    yield from _twice("mountPath", [m["mountPath"].rstrip("/") for m in mounts])
    for mount in mounts:
        if mount["name"] not in volumes or ":" in mount["mountPath"]:
            yield f"mount {mount['name']} at {mount['mountPath']}"
    for port in container.get("ports", []):
        if not 1 <= port["containerPort"] <= 65535:
            yield f"port {port['containerPort']}"
    yield from _resources(container.get("resources", {}))
    if not all(isinstance(word, str) for word in container.get("command", [])):
        yield "a command's words are text"


def _environment(env: list[Object]) -> Iterator[str]:
    yield from _twice("variable", [e["name"] for e in env])
    for entry in env:
        if not _ENV.fullmatch(entry["name"]) or not isinstance(entry.get("value", ""), str):
            yield f"variable {entry['name']} = {entry.get('value')!r}"
        field = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "metadata.name")
        if not _FIELDS.fullmatch(field):
            yield f"fieldRef {field}"
        if "value" in entry and "valueFrom" in entry:
            yield f"variable {entry['name']} has two sources"


def _resources(resources: Object) -> Iterator[str]:
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    for name, amount in [*limits.items(), *requests.items()]:
        if not _key(name) or not _quantity(amount):
            yield f"{name}: {amount!r}"
        elif "/" in name and (not amount.isdecimal() or limits.get(name) != requests.get(name, amount)):
            yield f"{name}: whole, and request and limit equal"
        elif name.startswith("hugepages-") and not {"cpu", "memory"} & (set(limits) | set(requests)):
            yield f"{name} needs cpu or memory"


def _quantity(amount: Any) -> bool:
    return isinstance(amount, str) and bool(_QUANTITY.fullmatch(amount))


def _toleration(toleration: Object) -> Iterator[str]:
    operator = toleration.get("operator", "Equal")
    if operator not in {"Equal", "Exists"} or (operator == "Exists" and toleration.get("value")):
        yield f"toleration {toleration}"
    if "key" in toleration and not _key(toleration["key"]):
        yield f"toleration {toleration}"
    if "tolerationSeconds" in toleration and toleration.get("effect") != "NoExecute":
        yield f"toleration {toleration}"


def _twice(what: str, names: list[str]) -> Iterator[str]:
    yield from (f"{what} {name} comes twice" for name in sorted(set(names)) if names.count(name) > 1)


def _floats(value: Any, path: str) -> Iterator[str]:
    """A custom resource's int-or-string refuses 0.5, which must be written "0.5"; null means nothing anywhere."""
    if isinstance(value, float) or value is None:
        yield f"{path} is {value!r}"
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _floats(inner, f"{path}.{key}")


_BASELINE_CAPABILITIES = {
    *(
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
    ),
    *("SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
_RESTRICTED_VOLUMES = {
    *(
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ),
}


def security(spec: Object) -> str:
    """The strictest Pod Security standard that admits a pod: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    contexts = [c.get("securityContext", {}) for c in (*spec["containers"], *spec.get("initContainers", []))]
    added = {name for c in contexts for name in c.get("capabilities", {}).get("add", [])}
    seccomp = [
        c.get("seccompProfile", spec.get("securityContext", {}).get("seccompProfile", {})) for c in contexts
    ]
    if (
        spec.get("hostNetwork")
        or any(c.get("privileged") for c in contexts)
        or any("hostPath" in v for v in spec.get("volumes", []))
        or added - _BASELINE_CAPABILITIES
        or any(s.get("type") == "Unconfined" for s in seccomp)
    ):
        return "privileged"
    root = spec.get("securityContext", {})
    strict = (
        all({"name", *_RESTRICTED_VOLUMES} >= set(v) for v in spec.get("volumes", []))
        and all(c.get("allowPrivilegeEscalation") is False for c in contexts)
        and all("ALL" in c.get("capabilities", {}).get("drop", []) for c in contexts)
        and not added - {"NET_BIND_SERVICE"}
        and all(c.get("runAsNonRoot", root.get("runAsNonRoot")) is True for c in contexts)
        and all(c.get("runAsUser", root.get("runAsUser")) != 0 for c in contexts)
        and all(s.get("type") in {"RuntimeDefault", "Localhost"} for s in seccomp)
    )
    return "restricted" if strict else "baseline"

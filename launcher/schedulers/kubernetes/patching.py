"""`kubernetes.pod_patch`: a strategic merge over rendered pods, for what the launcher has no field for.

Owns the merge, and what of a pod a patch may not change, because the run depends on it; what is a patch at all is
pod_shape.py's. https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
"""

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from launcher.errors import PlanError, Problem, SpecError
from launcher.files import dialect
from launcher.schedulers.kubernetes import pod_shape, unfit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from launcher.planning.plan import Plan

Object = dict[str, Any]
# Of a pod, and of the container that has the ranks: what the launcher decides, and what a file changes instead.
_POD = {
    "restartPolicy": "`restarts:` of the job",
    "subdomain": "",
    "hostname": "",
    "hostNetwork": "`fabric:`",
    "terminationGracePeriodSeconds": "kubernetes.grace_seconds",
    "schedulerName": "kubernetes.scheduler",
    "tolerations": "kubernetes.tolerations, which are added to those that a run needs",
}
_CONTAINER = {"image": "`image:`", "command": "`command:` of the job", "args": "`args:` of the job"}
# What a patch gives the ranks' container, which a pod beside the run's does not have.
_OF_RANKS = ("containers", "initContainers", "volumes", "resourceClaims", "topologySpreadConstraints")
_LISTS = {"env": "`env:`", "volumeMounts": "`mounts:`"}


def patched(plan: Plan, manifest: str) -> str:
    """The manifest with the plan's patch in each of its pods. Comments stay.

    Raises SpecError for what is no patch of a pod, PlanError for what would break the run.
    """
    patch: dict[str, Any] = {str(part): own for part, own in plan.cluster.kubernetes.pod_patch.items()}
    if not patch:
        return manifest
    if problems := [*pod_shape.problems(patch)]:
        raise SpecError(*problems)
    if plan.cluster.kubernetes.runtime:
        what = "pod_patch: the pods of a runtime of the cluster are not the launcher's to patch"
        raise PlanError(_problem(what, "leave kubernetes.runtime out: the run then creates its own runtime"))
    return "\n---\n".join(_merged_into(text, patch, plan.exclude) for text in manifest.split("\n---\n"))


def beside(plan: Plan, text: str) -> str:
    """Pods beside the run's, with what of the patch admits and places pods: all but what ranks have inside."""
    given: dict[str, Any] = {str(part): own for part, own in plan.cluster.kubernetes.pod_patch.items()}
    spec = {field: own for field, own in given.get("spec", {}).items() if field not in _OF_RANKS}
    patch = given | ({"spec": spec} if "spec" in given else {})
    return "\n---\n".join(_merged_into(part, patch, (), check=False) for part in text.split("\n---\n"))


def _problem(what: str, hint: str = "") -> Problem:
    return Problem(f"kubernetes.{what}", hint, about=("cluster", "kubernetes", "pod_patch"))


def _merged_into(text: str, patch: Mapping[str, Any], exclude: Sequence[str], check: bool = True) -> str:
    """One document of a manifest; a document without pods is left as it is. `check`: raise for what breaks a run."""
    yaml = dialect.round_trip()
    yaml.width = 2**20
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(text)
    templates = list(_templates(document))
    if not templates:
        return text
    for template in templates:
        before = copy.deepcopy(template)
        _merge(template, patch)
        spec = template["spec"]
        if lost := unfit.allowed(spec, exclude):  # the patch has another list in the place of --exclude-bad's
            spec["affinity"] = _clean(unfit.without(spec.get("affinity") or {}, lost))
        if check and (problems := list(_broken(before, template))):
            raise PlanError(*problems)
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue().removesuffix("\n") + ("\n" if text.endswith("\n") else "")


def _templates(node: Any) -> Iterator[Object]:
    """Every pod template below `node`: what has a spec with containers."""
    if isinstance(node, list):
        for entry in node:
            yield from _templates(entry)
    elif isinstance(node, dict):
        spec = node.get("spec")
        if isinstance(spec, dict) and "containers" in spec:
            yield node
            return
        for entry in node.values():
            yield from _templates(entry)


def _merge(target: Object, patch: Mapping[str, Any]) -> None:
    """Kubernetes' strategic merge, in place: null removes, lists with a merge key are merged by it, others replaced."""
    for key, value in patch.items():
        if key == "$patch":
            continue
        if value is None:
            target.pop(key, None)
        elif (
            isinstance(value, dict) and isinstance(target.get(key), dict) and value.get("$patch") != "replace"
        ):
            _merge(target[key], value)
        elif isinstance(value, list) and key in pod_shape.KEYS and isinstance(target.get(key), list):
            target[key] = _merged(target[key], value, pod_shape.KEYS[key])
        else:
            target[key] = _clean(value)


def _merged(entries: list[Any], patches: list[Any], key: str) -> list[Any]:
    for patch in patches:
        own = patch.get(key) if isinstance(patch, dict) else None
        found = next((entry for entry in entries if isinstance(entry, dict) and entry.get(key) == own), None)
        if found is None:
            entries.append(_clean(patch))
        elif patch.get("$patch") == "delete":
            entries.remove(found)
        else:
            _merge(found, patch)
    return entries


def _clean(value: Any) -> Any:
    """A value that is new, without the directives of a patch."""
    if isinstance(value, dict):
        return {k: _clean(v) for k, v in value.items() if k != "$patch" and v is not None}
    if isinstance(value, list):
        return [_clean(entry) for entry in value]
    if isinstance(value, str):  # in quotes: the server's YAML takes a bare `on` or `0x1` for no text
        return DoubleQuotedScalarString(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return int(value) if isinstance(value, int) else float(value)  # a file's numbers are those of document.py


def _broken(before: Object, after: Object) -> Iterator[Problem]:
    """What the run needs of a pod and the patch has changed or taken away."""
    labels, kept = before["metadata"]["labels"], after["metadata"].get("labels") or {}
    for name in labels:
        if kept.get(name) != labels[name]:
            yield _problem(f"pod_patch changes label {name}: the launcher finds the run's pods by it")
    old, new = before["spec"], after["spec"]
    for field, instead in _POD.items():
        if new.get(field) != old.get(field):
            yield _problem(
                f"pod_patch changes {field}", f"use {instead}" if instead else "hosts find each other by it"
            )
    for volume in old["volumes"]:
        if _named(new.get("volumes") or [], volume["name"]) != volume:
            yield _problem(
                f"pod_patch changes volume {volume['name']!r}, which the run has", "give yours another name"
            )
    yield from _containers(old["containers"], new.get("containers") or [])
    yield from _refused_later(new)
    for container in new.get("initContainers") or []:
        if not container.get("image"):
            what = f"pod_patch: init container {container['name']!r} has no image"
            yield _problem(what, "the ranks' container is below `containers`")


def _refused_later(spec: Object) -> Iterator[Problem]:
    """What a server refuses of a Job, and of the other kinds only when their controller makes the pods."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    names = [container["name"] for container in containers]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield _problem(f"pod_patch has two containers {name!r}", "give yours another name")
    volumes = {volume["name"] for volume in spec.get("volumes") or ()}
    for container in containers:
        for mount in container.get("volumeMounts") or ():
            if mount.get("name") not in volumes:
                what = f"pod_patch mounts {mount.get('name')!r} in {container['name']!r}, which is no volume of the pod"
                yield _problem(what, "add it to `volumes`")
        limits, requests = (
            (container.get("resources") or {}).get(key) or {} for key in ("limits", "requests")
        )
        for name, amount in requests.items():
            if ("/" in name or name.startswith("hugepages-")) and str(limits.get(name, amount)) != str(
                amount
            ):
                yield _problem(
                    f"pod_patch requests {amount} {name} and limits it to {limits[name]}",
                    "devices need equal ones",
                )


def _containers(old: list[Any], new: list[Any]) -> Iterator[Problem]:
    """The ranks' container, the only one of `old`, as the patch leaves it, and those beside it."""
    rank = old[0]
    for container in new:
        if container["name"] != rank["name"]:
            what = f"pod_patch: container {container['name']!r} would keep the pod when its ranks have ended"
            ranks = f"the ranks' is {rank['name']!r}"
            yield _problem(
                what, f"{ranks}; put another below initContainers with `restartPolicy: Always`: a sidecar"
            )
    now = _named(new, rank["name"])
    if now is None:
        yield _problem(f"pod_patch removes container {rank['name']!r}, which has the ranks")
        return
    for field, instead in _CONTAINER.items():
        if rank.get(field) != now.get(field):
            yield _problem(f"pod_patch changes the ranks' {field}", f"use {instead}")
    yield from _lost(rank, now)


def _lost(rank: Object, patched_rank: Object) -> Iterator[Problem]:
    """Variables, mounts and devices of the ranks that the patch changes or removes."""
    for field, instead in _LISTS.items():
        key = pod_shape.KEYS[field]
        now = {entry[key]: entry for entry in patched_rank.get(field) or []}
        for entry in rank.get(field) or []:
            if now.get(entry[key]) != entry:
                yield _problem(f"pod_patch changes {field} {entry[key]} of the ranks", f"use {instead}")
    limits, now = (
        rank["resources"].get("limits") or {},
        (patched_rank.get("resources") or {}).get("limits") or {},
    )
    for name, amount in limits.items():
        if now.get(name) != amount:
            yield _problem(
                f"pod_patch changes the ranks' limit {name}", "use slots, or kubernetes.resources and memory"
            )


def _named(entries: list[Any], name: str) -> Any:
    return next((entry for entry in entries if entry.get("name") == name), None)

"""Whether a Kubernetes cluster could start a job as it is: rights, claims, secrets, queue, quota, and a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.discovery import kubernetes as asked
from launcher.errors import Problem, SubmitError, of_field
from launcher.files import kubernetes_syntax
from launcher.images import registry
from launcher.schedulers.kubernetes import api, applying, devices, pods, rights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan


def check(plan: Plan, manifest: str) -> str:
    """That the server takes it, in words. Raises SubmitError with everything that keeps it from starting."""
    own = plan.cluster.kubernetes
    server = api.connect(own.context)
    space = own.namespace or server.namespace
    missing = _missing(server, space, plan)
    problems = [*_rights(missing), *_named(server, space, plan), *_quota(server, space, plan)]
    if said := registry.absent(plan.image):
        problems.append(
            of_field("cluster", "image", f"cannot be pulled: {said}", "push it, or correct its name")
        )
    if not any(right.startswith(("create", "patch")) for right in missing):  # a dry run needs them
        try:
            applying.rehearse(plan, manifest)
        except SubmitError as error:
            problems += error.problems
    if problems:
        raise SubmitError(*problems).at(plan.places)
    return f"the API server takes every object, in namespace {space}"


def _missing(server: api.Server, space: str, plan: Plan) -> list[str]:
    """Rights that the run needs and the user does not have; [] where the server does not say: the dry run does."""
    try:
        return asked.missing(
            server, space, [n for n in rights.needs(plan.cluster) if n not in rights.OPTIONAL]
        )
    except api.Refusal as refusal:
        if refusal.status in {0, 401}:
            raise
        return []


def _rights(missing: list[str]) -> Iterator[Problem]:
    if missing:
        what = f"you may not {', '.join(missing)}"
        yield Problem(what, "`launcher cluster rbac --cluster FILE` prints the Role to ask for")


def _named(server: api.Server, space: str, plan: Plan) -> Iterator[Problem]:
    """Objects that the pods refer to and that are not there. What the user may not read is not known, and passes."""
    own = plan.cluster.kubernetes
    wanted = [("persistentvolumeclaims", own.runs, "kubernetes.runs", "")]
    wanted += [("persistentvolumeclaims", m.claim, "mounts", m.inside) for m in plan.mounts if m.claim]
    wanted += [("secrets", secret.name, "env", secret.variable) for secret in plan.secrets]
    wanted += [("secrets", name, "kubernetes.image_pull_secrets", "") for name in own.image_pull_secrets]
    wanted += [("serviceaccounts", own.service_account, "kubernetes.service_account", "")]
    for plural, name, field, key in wanted:
        if name and _absent(server, f"/api/v1/namespaces/{space}/{plural}/{name}"):
            kind = plural.removesuffix("s")
            what = f"{kind} {name!r} is not in namespace {space}"
            yield of_field(
                "job" if field == "env" else "cluster",
                field,
                what,
                f"`kubectl -n {space} get {plural}`",
                key=key,
            )
    if own.queue and own.queueing == "kueue":
        yield from _queue(server, space, own.queue)
    claimed = devices.adapters(plan)
    if claimed and _absent(server, f"/apis/resource.k8s.io/v1/deviceclasses/{claimed.device_class}"):
        what = f"dra: the cluster has no DeviceClass {claimed.device_class}"
        hint = "its DRA driver brings it, on Kubernetes 1.34 or newer; leave it out for the device plugin"
        yield of_field("cluster", "kubernetes.adapters", what, hint)


def _absent(server: api.Server, path: str) -> bool:
    try:
        server.get(path)
    except api.Refusal as refusal:
        if refusal.status in {0, 401}:
            raise
        return refusal.status == 404
    return False


def _queue(server: api.Server, space: str, queue: str) -> Iterator[Problem]:
    groups = {g["name"]: g for g in server.get("/apis").get("groups", [])}
    kueue = groups.get("kueue.x-k8s.io")
    if kueue is None:
        yield of_field("cluster", "kubernetes.queue", f"{queue!r} is Kueue's, which is not installed here")
        return
    version = kueue["preferredVersion"]["groupVersion"]
    if _absent(server, f"/apis/{version}/namespaces/{space}/localqueues/{queue}"):
        hint = f"`kubectl -n {space} get localqueues`"
        yield of_field(
            "cluster", "kubernetes.queue", f"{queue!r} is no LocalQueue of namespace {space}", hint
        )


def _quota(server: api.Server, space: str, plan: Plan) -> Iterator[Problem]:
    """What the pods of the run ask for together, against what the namespace's quotas leave."""
    try:
        quotas = server.get(f"/api/v1/namespaces/{space}/resourcequotas").get("items", [])
    except api.Refusal as refusal:
        if refusal.status in {0, 401}:
            raise
        return
    limits, requests = pods.resources(plan)
    asked_for = {"pods": "1", "count/pods": "1", "cpu": requests["cpu"], "memory": requests["memory"]}
    asked_for |= {f"requests.{name}": amount for name, amount in requests.items()}
    asked_for |= {f"limits.{name}": amount for name, amount in limits.items()}
    own = plan.cluster.kubernetes
    groups = own.serve.replicas if own.kind == "leaderworkerset" else 1
    for quota in filter(_of_all_pods, quotas):
        yield from _over(quota, asked_for, plan.nodes * groups)


def _of_all_pods(quota: dict[str, Any]) -> bool:
    """Whether it counts every pod, or those that ask for something, as those of a run do.

    https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes
    """
    spec = quota.get("spec", {})
    return not spec.get("scopeSelector") and set(spec.get("scopes") or ()) <= {"NotBestEffort"}


def _over(quota: dict[str, Any], asked_for: dict[str, str], count: int) -> Iterator[Problem]:
    status, number = quota.get("status", {}), kubernetes_syntax.number
    for name, hard in status.get("hard", {}).items():
        used = status.get("used", {}).get(name, "0")
        if name in asked_for and number(asked_for[name]) * count > number(hard) - number(used):
            what = f"quota {quota['metadata']['name']}: {name} {used} of {hard} are used"
            yield Problem(
                f"{what}, and the run asks for {count} × {asked_for[name]}", "wait, or ask for less"
            )

"""What becomes of a run's folder: on a claim it stays, on the pods' own disks it ends with them.

Owns which runs cannot do without a claim, the manifests of those that they name, what a person should know before one
goes without, and that a cache of prepared texts may lie on that claim too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.errors import Problem, SpecError
from launcher.files import kubernetes_syntax
from launcher.namedtuple import NamedTuple
from launcher.planning import data_cache
from launcher.rendering import container_checks, templates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

FOLDER = "/runs"  # where the run folders' volume is mounted in a pod
_LEAST = 2**20  # bytes of a claim: below it, the unit was forgotten
_PLACE = ("cluster", "kubernetes")


def settled(plan: Plan) -> Plan:
    """The plan without a mount for a data_cache that lies on the volume of the run folders, which brings it."""
    own = data_cache.own_mount(plan.cluster)
    if own is None or not container_checks.normal(own).startswith(f"{FOLDER}/"):
        return plan
    return plan._replace(mounts=tuple(mount for mount in plan.mounts if mount.inside != own))


class Claim(NamedTuple):
    """A PersistentVolumeClaim that a run mounts, and what for."""

    name: str
    why: str


def claims(plan: Plan, storage: str) -> str:
    """Manifests of the claims that `plan` names, each followed by `---`; '' where it names none.

    `storage`: a size, or SIZE:CLASS. Raises SpecError for what is no size, or no class.
    """
    size, colon, storage_class = storage.partition(":")
    try:
        kubernetes_syntax.quantity(size)
        if kubernetes_syntax.number(size) < _LEAST:
            raise ValueError(f"{size} is less than 1Mi")
        if colon:
            kubernetes_syntax.subdomain(storage_class)
    except ValueError as error:
        problem = str(error).partition(";")[0]  # its own hint is of other fields
        raise SpecError(f"--with-claims {storage}: {problem}", hint="write it as 1Ti, or 1Ti:CLASS") from None
    runs = plan.cluster.kubernetes.runs
    named = {runs: Claim(runs, "kubernetes.runs: run folders and checkpoints")} if runs else {}
    for mount in plan.mounts:
        if mount.claim:
            named.setdefault(mount.claim, Claim(mount.claim, f"mounts: {mount.inside}"))
    return templates.text(
        "kubernetes/claims.yaml.j2",
        claims=list(named.values()),
        namespace=plan.cluster.kubernetes.namespace,
        size=size,
        storage_class=storage_class,
    )


def problems(plan: Plan) -> Iterator[Problem]:
    """A run whose hosts write one checkpoint together, each into a folder that the others do not see."""
    if plan.nodes > 1 and not plan.cluster.kubernetes.runs and workloads.saves(plan.job.workload):
        yield Problem(
            f"{plan.nodes} hosts save checkpoints, and without kubernetes.runs each has a run folder of its own",
            "name a PersistentVolumeClaim that all nodes can mount (ReadWriteMany): kubernetes: {runs: CLAIM}",
            about=_PLACE,
        )
    if not (plan.cluster.kubernetes.runs or plan.cluster.data_cache or _needs_gpus(plan)):
        hint = "name a PersistentVolumeClaim: kubernetes: {runs: CLAIM}, or data_cache: below a claim of `mounts`"
        yield Problem(
            f"what workload {plan.job.workload!r} makes would end with its pods", hint, about=_PLACE
        )


def kept(plan: Plan) -> list[str]:
    """The folders of a pod whose files outlive it."""
    runs = [FOLDER] if plan.cluster.kubernetes.runs else []
    return [*runs, *(mount.inside for mount in plan.mounts)]


def _needs_gpus(plan: Plan) -> bool:
    name = plan.job.workload
    return workloads.is_script(name) or workloads.traits(name).needs_accelerator


def warnings(plan: Plan) -> Iterator[Problem]:
    """What is lost with the pods of a run that is allowed to go without a claim."""
    if plan.cluster.kubernetes.runs or plan.job.checkpoint.mirror:
        return
    hint = "kubernetes: {runs: CLAIM} names a PersistentVolumeClaim that keeps it"
    if workloads.saves(plan.job.workload):
        what = "the run folder and its checkpoints end with the pod: an evicted run starts again from step 0"
        yield Problem(what, hint, about=_PLACE)
    elif workloads.is_script(plan.job.workload):
        whose = "its pod" if plan.nodes == 1 else "the pods, and each host has one of its own"
        yield Problem(f"the folder RUN_DIR ends with {whose}", hint, about=_PLACE)

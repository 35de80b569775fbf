"""Devices of a pod: those that are counted, and those that it claims from a DRA driver.

Owns which are which, and what the claims are called; who may ask for them is rights.py's.
https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.errors import of_field
from launcher.fabrics import FABRICS
from launcher.files import kubernetes_syntax
from launcher.namedtuple import NamedTuple
from launcher.schedulers.kubernetes import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.errors import Problem
    from launcher.planning.plan import Plan


_MOST = 32  # devices of a claim: AllocationResultsMaxSize of resource.k8s.io/v1


class Adapters(NamedTuple):
    """A claim of a fabric's adapters: the name of its template, the DeviceClass, and how many a pod gets."""

    template: str
    device_class: str
    number: int


def domain(plan: Plan) -> bool:
    """Whether the run has a ComputeDomain of its own: NVLink between its hosts."""
    return plan.fabric.compute_domain and plan.gpu


def channel(plan: Plan) -> str:
    """The name of the claims' template that NVIDIA's DRA driver makes of the run's ComputeDomain."""
    return f"{kinds.name(plan)}-channel"


def adapters(plan: Plan) -> Adapters | None:
    """What pods claim of the fabric's adapters; None where a device plugin counts them, or a pod gets none."""
    given, own = plan.fabric.device_class, plan.cluster.kubernetes
    if own.adapters != "dra" or given is None:
        return None
    asked = own.resources.get(given.instead_of) or str(plan.fabric.resources[given.instead_of])
    number = int(kubernetes_syntax.number(asked))
    return Adapters(f"{kinds.name(plan)}-adapters", given.name, number) if number else None


def claims(plan: Plan) -> tuple[dict[str, Any], ...]:
    """Devices that are claimed, not counted: a channel for NVLink between hosts, and adapters."""
    own = adapters(plan)
    wanted = {"imex": channel(plan) if domain(plan) else "", "adapters": own.template if own else ""}
    return tuple(
        {"name": name, "resourceClaimTemplateName": template} for name, template in wanted.items() if template
    )


def counted(plan: Plan) -> dict[str, str]:
    """Extended resources of a pod, but for its GPUs: the fabric's and the file's, without those that are claimed."""
    given = plan.fabric.device_class if adapters(plan) else None
    every = {k: str(v) for k, v in plan.fabric.resources.items()} | plan.cluster.kubernetes.resources
    return {name: amount for name, amount in every.items() if not given or name != given.instead_of}


def problems(plan: Plan) -> Iterator[Problem]:
    """Adapters that no DRA driver is known to hand out, and more than one claim may have."""
    own = adapters(plan)
    if own and plan.fabric.device_class and own.number > _MOST:
        key, what = plan.fabric.device_class.instead_of, f"{own.number} is more than a claim of a pod holds"
        yield of_field("cluster", "kubernetes.resources", what, f"use {_MOST} or fewer", key=key)
    if plan.cluster.kubernetes.adapters == "dra" and plan.fabric.device_class is None:
        known = [fabric for fabric, entry in FABRICS.items() if entry.device_class]
        what = f"dra: no DRA driver is known for the adapters of fabric {plan.fabric.name!r}"
        hint = f"leave it out: it is for {', '.join(known)}; others are claimed by kubernetes.pod_patch"
        yield of_field("cluster", "kubernetes.adapters", what, hint)

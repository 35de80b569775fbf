"""What of a plan is NVIDIA's alone, and so not for hosts with GPUs of another vendor; what Kubernetes calls a GPU.

Owns the refusals that follow from a card's vendor; the cards themselves are files/gpu.py's, their devices in containers
rendering/devices.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.errors import Problem, shown
from launcher.fabrics import FABRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
    from launcher.sizing.gpus import Gpu

# The names that the vendors' device plugins give: https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/
_RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel": "gpu.intel.com/i915"}
VENDORS = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}
# RCCL has NCCL's own names: https://rocm.docs.amd.com/projects/rccl/en/latest/api-reference/env-variables.html
_LIBRARIES = {"nvidia": "NCCL", "amd": "RCCL", "intel": "oneCCL"}


def resource(cluster: Cluster) -> str:
    """What Kubernetes calls one GPU of the cluster's hosts; '' where they have none."""
    card = cluster.card
    return (cluster.kubernetes.gpu_resource or _RESOURCES[card.vendor]) if card else ""


def taints(cluster: Cluster) -> tuple[str, ...]:
    """The taints with which sites keep other pods off GPU nodes: by the resource's name, and for a slice the GPU's."""
    card = cluster.card
    return tuple(dict.fromkeys((_RESOURCES[card.vendor], resource(cluster)))) if card else ()


def problems(cluster: Cluster) -> Iterator[Problem]:
    """What cannot work with the vendor of the cluster's GPUs, or without GPUs."""
    name, card = cluster.kubernetes.gpu_resource, cluster.card
    about = ("cluster", "kubernetes", "gpu_resource")
    if name and card is None:
        yield Problem(f"kubernetes.gpu_resource {name}: the hosts have no GPU", "add `gpu:`", about=about)
    elif name and card and (owner := _owner(name)) and owner != card.vendor:
        own = f"{cluster.gpu_name} is {VENDORS[card.vendor]}'s"
        what = f"kubernetes.gpu_resource {name} is {VENDORS[owner]}'s, and {own}"
        yield Problem(what, f"correct one of them; by itself it is {_RESOURCES[card.vendor]}", about=about)
    if name and card and "/mig-" in name and cluster.slots > 1:
        # "CUDA can only enumerate a single compute instance": https://docs.nvidia.com/datacenter/tesla/mig-user-guide/
        what = f"kubernetes.gpu_resource {name}: a process sees one slice, and the second of {cluster.slots} ranks none"
        yield Problem(what, "use slots: 1, and more nodes for more ranks", about=("cluster", "slots"))
    if card and card.vendor not in (whose := FABRICS[cluster.fabric].vendors):
        yield Problem(
            f"fabric {shown(cluster.fabric)} is for {VENDORS[whose[0]]}'s {_LIBRARIES[whose[0]]}, which "
            f"{VENDORS[card.vendor]}'s GPUs do not use",
            _instead(card),
            about=("cluster", "fabric"),
        )


def _instead(card: Gpu) -> str:
    """Fabrics for the card's vendor; all of NVIDIA's would be too many to read."""
    if card.vendor == "nvidia":
        return "`python -m launcher env` lists them all"
    there = [name for name, fabric in FABRICS.items() if card.vendor in fabric.vendors and name != "none"]
    return f"use {', '.join(there)}, and give what {_LIBRARIES[card.vendor]} needs below `env:`"


def _owner(name: str) -> str:
    """The vendor whose device plugin counts the resource; '' for one of somebody else's."""
    domain = name.partition("/")[0]
    return next((vendor for vendor in _RESOURCES if domain.endswith(f"{vendor}.com")), "")

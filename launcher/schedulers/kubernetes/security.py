"""What a pod may do: as little as Kubernetes' `restricted` standard asks, and exactly what a fabric needs beyond it.

Owns security contexts and the words that say why one is wider.
https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

Level = Literal["restricted", "baseline", "privileged"]


class Rights(NamedTuple):
    """The security contexts of a pod and its container, the standard that admits them, and why it is no stricter.

    `unlimited`: the nodes themselves must let a container lock any amount of memory.
    """

    pod: dict[str, Any]
    container: dict[str, Any]
    host_network: bool
    level: Level
    reasons: tuple[str, ...]
    unlimited: bool


def rights(plan: Plan) -> Rights:
    """The rights of a run's pods."""
    cluster, fabric = plan.cluster.kubernetes, plan.fabric
    added = fabric.capabilities if cluster.memlock == "capability" or not fabric.memlock else ()
    # A capability that is added counts for root alone: Kubernetes cannot give one to another user
    # (https://github.com/kubernetes/enhancements/issues/2763).
    user = 0 if added or fabric.privileged else cluster.user
    reasons = list(_reasons(plan, added))
    wide = bool(reasons)
    if user == 0 and not wide:
        reasons.append("user 0: set by kubernetes.user")
    pod = {
        "runAsNonRoot": user != 0,
        "runAsUser": user,
        "runAsGroup": cluster.group,
        "fsGroup": cluster.group,
        "fsGroupChangePolicy": "OnRootMismatch",  # else every file of a large volume is visited at each start
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container: dict[str, Any] = {"readOnlyRootFilesystem": True}
    if fabric.privileged:
        container["privileged"] = True
    else:
        container["allowPrivilegeEscalation"] = False
        container["capabilities"] = {"drop": ["ALL"], **({"add": list(added)} if added else {})}
    level: Level = "privileged" if wide else "baseline" if user == 0 else "restricted"
    unlimited = fabric.memlock and not added and not fabric.privileged
    return Rights(
        pod=pod,
        container=container,
        host_network=fabric.host_network,
        level=level,
        reasons=tuple(reasons),
        unlimited=unlimited,
    )


def _reasons(plan: Plan, added: tuple[str, ...]) -> list[str]:
    fabric = plan.fabric
    privileges = []
    if fabric.privileged:
        privileges.append(
            f"privileged: fabric {fabric.name} opens the host's devices, {', '.join(fabric.devices)}"
        )
    if added:
        hint = " (kubernetes.memlock: node, where nodes set no limit, does without)" if fabric.memlock else ""
        privileges.append(
            f"{', '.join(added)}, as root: fabric {fabric.name} pins memory for its adapters{hint}"
        )
    if fabric.host_network:
        privileges.append(f"the host's network: fabric {fabric.name}; no NetworkPolicy can protect it")
    privileges += [f"host path {m.host}: fabric {fabric.name}" for m in fabric.mounts]
    privileges += [
        f"{', '.join(s.capabilities) or 'root'} and host paths for {s.name}: fabric {fabric.name}"
        for s in fabric.sidecars
    ]
    privileges += [f"host path {m.host}: the cluster's mounts" for m in plan.mounts if m.host and not m.claim]
    return privileges


def sidecar(capabilities: tuple[str, ...]) -> dict[str, Any]:
    """The security context of a fabric's daemon: root, as its vendor runs it, with what it asks for."""
    context: dict[str, Any] = {
        "runAsNonRoot": False,
        "runAsUser": 0,
        "seccompProfile": {"type": "Unconfined"},
    }
    return context | ({"capabilities": {"add": list(capabilities)}} if capabilities else {})

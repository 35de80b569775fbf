"""The environment that lets the ranks of a job communicate: which variables, why, and as shell text.

Owns what follows from a fabric; merging in what a job or a cluster file sets is `planning.plan`'s.

    environment.environment(FABRICS["infiniband"], gpu=True, interface="eth0") -> variables to export
    lint.lint({"NCCL_IB_DISABLE": "1"}, FABRICS["infiniband"]) -> findings
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher import errors
from launcher.fabrics import FABRICS
from launcher.fabrics.model import Fabric, Variable, manual

if TYPE_CHECKING:
    from collections.abc import Iterable

_TORCH = "https://docs.pytorch.org/docs/stable/distributed.html#choosing-the-network-interface-to-use"
INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def environment(fabric: Fabric, *, gpu: bool, interface: str | None) -> tuple[Variable, ...]:
    """The variables that a job on `fabric` exports, each name once.

    `interface` is the network interface of a cluster file, in NCCL's notation: `eth0`, `eth0,eth1`, `=eth0`,
    or `^docker` for all others. It takes the place of the fabric's own. Ranks without GPUs get gloo's alone.
    """
    exported = {variable.name: variable for variable in fabric.variables}
    if gpu:
        why = "errors of NCCL come with their reason; otherwise only their number is shown"
        exported["NCCL_DEBUG"] = Variable("NCCL_DEBUG", "WARN", why, manual("NCCL_DEBUG"))
    if fabric.net:
        why = "stop when this network cannot be used, instead of going on over TCP"
        exported["NCCL_NET"] = Variable("NCCL_NET", fabric.net, why, manual("NCCL_NET"))
    if interface:
        exported.update((variable.name, variable) for variable in _interface(interface))
    return tuple(variable for variable in exported.values() if gpu or variable.name.startswith("GLOO_"))


def require(fabric: Fabric, scheduler: str) -> None:
    """Raises PlanError when `fabric` is described for other schedulers only: its paths would lead nowhere."""
    if not fabric.schedulers or scheduler in fabric.schedulers:
        return
    machine = "-".join(fabric.name.split("-")[:2])  # gcp-gib-slurm and gcp-gib-a4 are kin of gcp-gib
    same = [name for name in FABRICS if f"{name}-".startswith(f"{machine}-")]
    there = [name for name in same if scheduler in FABRICS[name].schedulers]
    raise errors.PlanError(
        errors.Problem(
            f"fabric {fabric.name!r} is for {' and '.join(fabric.schedulers)}, not for {scheduler}",
            f"use `fabric: {there[0]}`" if there else f"its sources do not describe it for {scheduler}",
            about=("cluster", "fabric"),
        )
    )


def text(variables: Iterable[Variable], script: Iterable[str] = ()) -> str:
    """Shell text: `script` as it is, then one `export NAME=value  # why (source)` for each variable.

    A POSIX shell that reads it has exactly the values. Raises SpecError for what no environment can hold.
    """
    return "".join(f"{line}\n" for line in (*script, *map(_export, variables)))


def _interface(interface: str) -> list[Variable]:
    names = interface.removeprefix("=")
    why = "the interface that the cluster file names"
    if interface.startswith("^"):  # gloo cannot exclude
        return [Variable("NCCL_SOCKET_IFNAME", interface, why, manual("NCCL_SOCKET_IFNAME"))]
    return [
        # `=`: without it eth1 means eth10 too.
        Variable("NCCL_SOCKET_IFNAME", f"={names}", why, manual("NCCL_SOCKET_IFNAME")),
        Variable("GLOO_SOCKET_IFNAME", names, why, _TORCH),
    ]


def _export(variable: Variable) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable.name):
        raise errors.SpecError(
            f"{variable.name!r} cannot be the name of an environment variable",
            hint="use letters, digits and _, not a digit first",
        )
    if "\0" in variable.value:
        raise errors.SpecError(
            f"the value of {variable.name} has a NUL character", hint="no environment variable can hold it"
        )
    source = f" ({variable.source})" if variable.source else ""
    reason = " ".join(f"{variable.why}{source}".split())  # a line break would end the comment
    # Quoted even where bash needs no quotes: shells expand more than it does (zsh: `=name`, as in NCCL_IB_HCA==mlx5_0).
    value = variable.value.replace("'", "'\"'\"'")
    return f"export {variable.name}='{value}'" + (f"  # {reason}" if reason else "")

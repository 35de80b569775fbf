"""The environment that lets the ranks of a job talk: which variables, why, as text, and what is wrong with given ones.

Owns what follows from a fabric; the fabrics are in `launcher.fabrics`, the known names in `launcher.ncclvars`.
Merging in what a job or a cluster file asks for is `launcher.plan`'s.

    nccl.environment(nccl.FABRICS["infiniband"], gpu=True, interface="eth0") -> variables to export
    nccl.lint({"NCCL_IB_DISABLE": "1"}, nccl.FABRICS["infiniband"]) -> findings
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from launcher import errors, ncclvars
from launcher.fabrics import FABRICS
from launcher.fabrics.parts import Fabric, Variable, manual

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["FABRICS", "Fabric", "Finding", "Variable", "environment", "lint", "require", "text"]

Severity = Literal["error", "warning", "note"]

_TORCH = "https://docs.pytorch.org/docs/stable/distributed.html#choosing-the-network-interface-to-use"
_INTERFACES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


class Finding(NamedTuple):
    """What is wrong with one variable. `error`: it cannot work; `warning`: harmful; `note`: worth a second look."""

    name: str
    message: str
    severity: Severity


def environment(fabric: Fabric, *, gpu: bool, interface: str | None) -> tuple[Variable, ...]:
    """The variables that a job on `fabric` exports, each name once.

    `interface` is the network interface of a cluster file, in NCCL's notation: `eth0`, `eth0,eth1`, `=eth0`,
    or `^docker` for all others. It takes the place of the fabric's own. Ranks without GPUs get gloo's alone.
    """
    found = {variable.name: variable for variable in fabric.variables}
    if gpu:
        why = "errors of NCCL come with their reason; otherwise only their number is shown"
        found["NCCL_DEBUG"] = Variable("NCCL_DEBUG", "WARN", why, manual("NCCL_DEBUG"))
    if fabric.net:
        why = "stop when this network cannot be used, instead of going on over TCP"
        found["NCCL_NET"] = Variable("NCCL_NET", fabric.net, why, manual("NCCL_NET"))
    if interface:
        found.update((variable.name, variable) for variable in _interface(interface))
    return tuple(variable for variable in found.values() if gpu or variable.name.startswith("GLOO_"))


def lint(variables: Mapping[str, str], fabric: Fabric) -> list[Finding]:
    """What is wrong with `variables` on `fabric`, the gravest thing of each; what the fabric itself says is right.

    Names that NCCL does not read are warnings, not errors: a newer NCCL may read them.
    """
    own = {(v.name, v.value) for v in environment(fabric, gpu=True, interface=None)}
    given = [item for item in variables.items() if item not in own]
    found = (_first(name, value, fabric) for name, value in given)
    return [finding for finding in found if finding]


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


def _first(name: str, value: str, fabric: Fabric) -> Finding | None:
    checks = (_set_by_launcher, _only_loopback, _forbidden, _foreign, _harmful, _old, _unknown, _experiment)
    return next((finding for check in checks if (finding := check(name, value, fabric))), None)


def _set_by_launcher(name: str, value: str, fabric: Fabric) -> Finding | None:
    if name not in ncclvars.RESERVED:
        return None
    return Finding(name, f"{name} cannot be set: {ncclvars.RESERVED[name]}; leave it out", "error")


def _only_loopback(name: str, value: str, fabric: Fabric) -> Finding | None:
    if name not in _INTERFACES or value.strip("=, ") != "lo" or fabric.name in ("none", "loopback"):
        return None
    return Finding(name, f"{name}=lo: ranks of other hosts cannot be reached over lo", "error")


def _forbidden(name: str, value: str, fabric: Fabric) -> Finding | None:
    if name == "NCCL_IB_DISABLE" and "NCCL_IB_" in fabric.owns and value != "0":
        return Finding(name, f"{name} turns the network of fabric {fabric.name!r} off", "error")
    match = next((entry for entry in fabric.forbidden if entry.matches(name)), None)
    if not match:
        return None
    return Finding(name, f"leave {name} out on {fabric.name!r}: {match.why} ({match.source})", "warning")


def _foreign(name: str, value: str, fabric: Fabric) -> Finding | None:
    if name == "NCCL_NET":
        return _other_net(value, fabric)
    if name == "NCCL_IB_DISABLE" or fabric.name == "none" or name.startswith(fabric.owns):
        return None
    owners = [f.name for f in FABRICS.values() if name.startswith(f.owns)]
    if not owners:
        return None
    return Finding(name, f"{name} is for {_some(owners)}: choose that fabric or leave it out", "warning")


def _other_net(value: str, fabric: Fabric) -> Finding | None:
    aliases = {"libfabric": "aws libfabric", "ofi": "aws libfabric"}
    wanted = aliases.get(value.lower(), value.lower())
    if fabric.net and wanted != fabric.net.lower():
        message = f"NCCL_NET={value} is not the network of {fabric.name!r}, which is {fabric.net!r}"
        return Finding("NCCL_NET", message, "warning")
    owners = [f.name for f in FABRICS.values() if f.net and f.net.lower() == wanted]
    if fabric.net or not owners or fabric.name == "none" or fabric.owns:
        return None
    return Finding(
        "NCCL_NET", f"NCCL_NET={value} stops the job on {fabric.name!r}: it is for {_some(owners)}", "warning"
    )


def _harmful(name: str, value: str, fabric: Fabric) -> Finding | None:
    values, why, source = ncclvars.HARMFUL.get(name, (frozenset(), "", ""))
    if value.upper() not in values:
        return None
    return Finding(name, f"{name}={value} is for debugging: it {why} ({source})", "warning")


def _old(name: str, value: str, fabric: Fabric) -> Finding | None:
    instead = ncclvars.OLD.get(name)
    return Finding(name, f"{name} is an old name: {instead}", "warning") if instead else None


def _unknown(name: str, value: str, fabric: Fabric) -> Finding | None:
    if ncclvars.is_known(name):
        return None
    family = next(prefix for prefix in ncclvars.KNOWN if name.startswith(prefix))
    ends = [known.removeprefix(family) for known in sorted(ncclvars.KNOWN[family])]
    close = difflib.get_close_matches(name.removeprefix(family), ends, n=1, cutoff=0.7)
    hint = f"; did you mean {family}{close[0]!s}?" if close else ""
    return Finding(name, f"nothing reads {name}{hint}", "warning")


def _experiment(name: str, value: str, fabric: Fabric) -> Finding | None:
    if name not in ncclvars.EXPERIMENTS:
        return None
    return Finding(
        name, f"{name} takes a choice from NCCL; its guide keeps it for experiments ({manual(name)})", "note"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")

"""What is wrong with NCCL's variables that a job or a cluster file sets, on a given fabric."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

from launcher.fabrics import FABRICS, variables
from launcher.fabrics.environment import INTERFACES, environment
from launcher.fabrics.model import Fabric, manual
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


Severity = Literal["error", "warning", "note"]


class Diagnostic(NamedTuple):
    """What is wrong with one variable. `error`: it cannot work; `warning`: harmful; `note`: worth a second look."""

    name: str
    message: str
    severity: Severity


def lint(environ: Mapping[str, str], fabric: Fabric) -> list[Diagnostic]:
    """What is wrong with `environ` on `fabric`, the gravest finding of each variable; the fabric's own are right.

    Names that NCCL does not read are warnings, not errors: a newer NCCL may read them.
    """
    own = {(v.name, v.value) for v in environment(fabric, gpu=True, interface=None)}
    given = [item for item in environ.items() if item not in own]
    gravest = (_first(name, value, fabric) for name, value in given)
    return [diagnostic for diagnostic in gravest if diagnostic]


def _first(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    checks = (
        _set_by_launcher,
        _only_loopback,
        _forbidden,
        _foreign,
        _without_plugin,
        _harmful,
        _old,
        _unknown,
        _experiment,
    )
    diagnostics = (check(name, value, fabric) for check in checks)
    return next(filter(None, diagnostics), None)


def _set_by_launcher(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    if name not in variables.RESERVED:
        return None
    return Diagnostic(name, f"{name} cannot be set: {variables.RESERVED[name]}; leave it out", "error")


def _only_loopback(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    if name not in INTERFACES or value.strip("=, ") != "lo" or fabric.name in ("none", "loopback"):
        return None
    return Diagnostic(name, f"{name}=lo: ranks of other hosts cannot be reached over lo", "error")


def _forbidden(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    if name == "NCCL_IB_DISABLE" and "NCCL_IB_" in fabric.owns and value != "0":
        return Diagnostic(name, f"{name} disables the network of fabric {fabric.name!r}", "error")
    match = next((entry for entry in fabric.forbidden if entry.matches(name)), None)
    if not match:
        return None
    return Diagnostic(name, f"leave {name} out on {fabric.name!r}: {match.why} ({match.source})", "warning")


def _foreign(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    if name == "NCCL_NET":
        return _other_net(value, fabric)
    if name == "NCCL_IB_DISABLE" or fabric.name == "none" or name.startswith(fabric.owns):
        return None
    owners = [f.name for f in FABRICS.values() if name.startswith(f.owns)]
    if not owners:
        return None
    return Diagnostic(name, f"{name} is for {_some(owners)}: choose that fabric or leave it out", "warning")


def _other_net(value: str, fabric: Fabric) -> Diagnostic | None:
    aliases = {"libfabric": "aws libfabric", "ofi": "aws libfabric"}
    wanted = "ib" if value.lower().startswith("ibext_v") else aliases.get(value.lower(), value.lower())
    if fabric.net and wanted != fabric.net.lower():
        message = f"NCCL_NET={value} is not the network of {fabric.name!r}, which is {fabric.net!r}"
        return Diagnostic("NCCL_NET", message, "warning")
    owners = [f.name for f in FABRICS.values() if f.net and f.net.lower() == wanted]
    if fabric.net or not owners or fabric.name == "none" or fabric.owns:
        return None
    return Diagnostic(
        "NCCL_NET", f"NCCL_NET={value} stops the job on {fabric.name!r}: it is for {_some(owners)}", "warning"
    )


def _without_plugin(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    """SHARP beside NCCL_NET=IB: NCCL takes it only from the plugin whose network it uses, and says nothing."""
    if name != "NCCL_COLLNET_ENABLE" or value != "1" or (fabric.net or "").lower() != "ib":
        return None
    return Diagnostic(
        name, f"{name}=1 does nothing beside NCCL_NET=IB: use `fabric: infiniband-sharp`", "warning"
    )


def _harmful(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    harm = variables.harm(name)
    if harm is None or value.upper() not in harm.values:
        return None
    return Diagnostic(name, f"{name}={value} is for debugging: it {harm.why} ({harm.source})", "warning")


def _old(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    instead = variables.instead_of(name)
    return Diagnostic(name, f"{name} is an old name: {instead}", "warning") if instead else None


def _unknown(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    if variables.is_known(name):
        return None
    family = next(prefix for prefix in variables.known() if name.startswith(prefix))
    ends = [known.removeprefix(family) for known in sorted(variables.known()[family])]
    close = difflib.get_close_matches(name.removeprefix(family), ends, n=1, cutoff=0.7)
    hint = f"; did you mean {family}{close[0]!s}?" if close else ""
    return Diagnostic(name, f"nothing reads {name}{hint}", "warning")


def _experiment(name: str, value: str, fabric: Fabric) -> Diagnostic | None:
    if instead := variables.deprecated(name, value):
        return Diagnostic(name, f"{name}={value} is deprecated: {instead}", "note")
    if name not in variables.experiments():
        return None
    return Diagnostic(
        name,
        f"{name} overrides what NCCL chooses itself; its guide lists it for debugging ({manual(name)})",
        "note",
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")

"""The table of fabrics: what a job must set, mount and ask for on each network between hosts.

Owns the reading of a provider's file, which has each value with its reason and its source; what is done with them is
`launcher.fabrics.environment`'s. A new fabric is one entry in the file of its provider, with the fields of
`model.Fabric`, whose sources are names of the file's `links`, each with its address and what it is of: the day of a
commit, the release of a manual, or the day on which a page without either was read. What the entry leaves out is as in
the fabric that it is `like`, but for `vendors`, and a `note` is for whoever reads the file.

Only what a source asks for is set. Everything else is left to NCCL, which chooses by the hardware it finds:
a value carried over from another network is worse than none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.fabrics.model import Bandwidth, DeviceClass, Fabric, Forbidden, HostPath, Sidecar, Variable

if TYPE_CHECKING:
    from collections.abc import Mapping

_PROVIDERS = ("generic", "aws", "azure", "gcp", "oracle", "coreweave", "alibaba")


def _read(name: str, entry: Mapping[str, Any], links: Mapping[str, str], like: Fabric) -> Fabric:
    """The fabric of an entry. `links`: the sources by the names that they have in its file."""
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
    }
    variables = {variable.name: variable for variable in like.variables}
    for variable, (value, why, source) in given.pop("variables", {}).items():
        variables[variable] = Variable(variable, value, why, links[source])
    if "sources" in given:
        given["sources"] = tuple(links[source] for source in given["sources"])
    if "forbidden" in given:
        forbidden = given["forbidden"].items()
        given["forbidden"] = tuple(Forbidden(word, why, links[source]) for word, (why, source) in forbidden)
    if "annotations" in given:  # text as it is, anything else as JSON
        annotations = given["annotations"].items()
        given["annotations"] = {k: v if isinstance(v, str) else json.dumps(v) for k, v in annotations}
    if "sidecars" in given:
        given["sidecars"] = tuple(_sidecar(sidecar, links) for sidecar in given["sidecars"])
    if given.get("bandwidth"):
        bandwidth = Bandwidth(**given["bandwidth"])
        given["bandwidth"] = bandwidth._replace(source=links[bandwidth.source])
    if "device_class" in given:
        device_class = DeviceClass(**given["device_class"])
        given["device_class"] = device_class._replace(source=links[device_class.source])
    # whose GPUs a fabric was described for is nothing that another one inherits
    given.setdefault("vendors", Fabric._field_defaults["vendors"])
    if "mounts" in given:
        given["mounts"] = _mounts(given["mounts"])
    return like._replace(**given, name=name, variables=tuple(variables.values()))


def _sidecar(data: Mapping[str, Any], links: Mapping[str, str]) -> Sidecar:
    lists = {key: tuple(data[key]) for key in ("command", "capabilities")}
    environment, mounts = tuple(data["environment"].items()), _mounts(data["mounts"])
    return Sidecar(
        **{**data, **lists, "environment": environment, "mounts": mounts, "source": links[data["source"]]}
    )


def _mounts(paths: list[list[Any]]) -> tuple[HostPath, ...]:
    return tuple(HostPath(*path) for path in paths)


def _fabrics() -> dict[str, Fabric]:
    known: dict[str, Fabric] = {}
    for provider in _PROVIDERS:
        table = json.loads(Path(__file__).with_name(f"{provider}.json").read_text(encoding="utf-8"))
        for name, entry in table["fabrics"].items():
            like = known[entry.pop("like")] if "like" in entry else Fabric("", "", ())
            entry.pop("note", None)
            links = {key: address for key, (address, _) in table["links"].items()}
            known[name] = _read(name, entry, links, like)._replace(checked=table["checked"])
    return known


FABRICS: dict[str, Fabric] = _fabrics()

"""What differs between two runs: their plans, DeepSpeed configurations, variables by name, and locks.

Owns the names of what differs and in which order they are told. Values of variables are never told, only that they
differ; what both files of a run say is told once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.errors import LauncherError
from launcher.runs import fingerprints, lock, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANGED = "changed"
# Fields of the files that the plan has decided under another name, and those that only name or place a run.
_DECIDED = {
    "job": {"name", "args", "batch", "deepspeed", "env", "nodes", "precision", "cluster"},
    "cluster": {"env", "slots", "image"},
}


class Difference(NamedTuple):
    """`what` has the value `one` in the first run and `other` in the second; None: it has none there."""

    what: str
    one: Any
    other: Any


class Provenance(NamedTuple):
    """What a run was made of: its plan.json, its lock.json, and the DeepSpeed configuration that its ranks read."""

    plan: dict[str, Any]
    lock: dict[str, Any]
    config: dict[str, Any]


def read(folder: Path) -> Provenance:
    """What the run in `folder` was made of. Raises RunNotFoundError without a plan.json that can be read."""
    plan = record.read_json(folder / "plan.json")
    plan = plan if isinstance(plan, dict) else {}
    try:
        config = record.read_json(folder / "ds_config.json")
    except LauncherError:  # it has not started, or its folder is on a volume of the cluster
        config = _part(plan, "deepspeed").get("config")
    return Provenance(plan, lock.complete(folder), config if isinstance(config, dict) else {})


def between(one: Provenance, other: Provenance) -> list[Difference]:
    """Everything that differs, the plan first, each thing once."""
    told = list(_plans(one, other))
    twice = {f"seeds.{difference.what}" for difference in told}  # a seed of args is in both files
    return told + [difference for difference in locks(one.lock, other.lock) if difference.what not in twice]


def _plans(one: Provenance, other: Provenance) -> Iterator[Difference]:
    yield from _values("nodes", *(_nodes(run.plan) for run in (one, other)))
    for name in ("slots", "image", "precision"):
        yield from _values(name, one.plan.get(name), other.plan.get(name))
    for name in ("batch", "args"):
        yield from _values(name, one.plan.get(name), other.plan.get(name))
    presets = [_part(run.plan, "deepspeed").get("preset") for run in (one, other)]
    yield from _values("deepspeed.preset", *presets)
    yield from _values("deepspeed", one.config, other.config)
    yield from _named("environment", _part(one.plan, "environment"), _part(other.plan, "environment"))
    for file, decided in _DECIDED.items():
        parts = [{k: v for k, v in _part(run.plan, file).items() if k not in decided} for run in (one, other)]
        yield from _values(file, *parts)


def _nodes(plan: dict[str, Any]) -> Any:
    """The number of hosts, or the range that the job gives."""
    return _part(_part(plan, "job"), "nodes") or plan.get("nodes")


def locks(one: dict[str, Any], other: dict[str, Any]) -> Iterator[Difference]:
    """What differs between two locks, beyond what their plans say; nothing where one of the runs has none."""
    if not one or not other:
        return
    for name in ("launcher", "python"):
        yield from _values(name, one.get(name), other.get(name))
    unknown = {
        k for e in (one, other) for k in ("docker",) if not _part(e, "code").get(k)
    }  # of a foreign image
    code = [_without(_part(entry, "code"), {"program", *unknown}) for entry in (one, other)]
    yield from _values("code", *code)
    yield from _fingerprints(
        "code.program", _part(one, "code").get("program"), _part(other, "code").get("program")
    )
    images = [_part(entry, "image") for entry in (one, other)]
    if all(image.get("digest") for image in images):  # '' where the registry was not asked, or did not answer
        yield from _values("image.digest", *(image["digest"] for image in images))
    yield from _fingerprints("image.file", *(image.get("file") for image in images))
    if one.get("packages") and other.get("packages"):  # none are known of an image without facts
        yield from _values("packages", one["packages"], other["packages"])
    yield from _data(one, other)
    seeds = [
        {k: v for k, v in _part(entry, "seeds").items() if not k.startswith("environment.")}
        for entry in (one, other)
    ]
    for name in seeds[0]:  # also one that a workload has chosen itself
        if name in seeds[1]:
            yield from _values(f"seeds.{name}", seeds[0][name], seeds[1][name])
    yield from _named("shell", _part(one, "environment"), _part(other, "environment"))
    yield from _values("secrets", one.get("secrets"), other.get("secrets"))
    if one.get("hosts") and other.get("hosts"):
        yield from _values("hosts", one["hosts"], other["hosts"])
        yield from _values("drivers", *_drivers(one, other))


def _drivers(one: dict[str, Any], other: dict[str, Any]) -> Iterator[Any]:
    """By the host's place among the run's, because hosts themselves may be others."""
    for entry in (one, other):
        said = _part(entry, "drivers")
        yield {str(index): said.get(host) for index, host in enumerate(entry["hosts"]) if said.get(host)}


def _data(one: dict[str, Any], other: dict[str, Any]) -> Iterator[Difference]:
    """Data that both runs name at the same place; another name is a difference of args already."""
    entries = [
        {(str(e.get("named")), str(e.get("path"))): e.get("fingerprint") for e in entry.get("data") or ()}
        for entry in (one, other)
    ]
    for named, path in [key for key in entries[0] if key in entries[1]]:
        prints = [entry[named, path] for entry in entries]
        yield from _fingerprints(f"data {named} {path}", *prints)


def _fingerprints(
    what: str, one: dict[str, Any] | None, other: dict[str, Any] | None
) -> Iterator[Difference]:
    if fingerprints.differ(one, other):
        yield Difference(what, _shown(one), _shown(other))


def _shown(fingerprint: dict[str, Any] | None) -> str | None:
    if fingerprint is None:
        return None
    return f"{fingerprint.get('bytes')} bytes, sha256 {str(fingerprint.get('sha256'))[:12]}"


def _named(what: str, one: dict[str, Any], other: dict[str, Any]) -> Iterator[Difference]:
    """Variables: that they differ, not how."""
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            yield Difference(
                f"{what}.{name}", CHANGED if name in one else None, CHANGED if name in other else None
            )


def _values(what: str, one: Any, other: Any) -> Iterator[Difference]:
    """The leaves that differ; lists are told whole, and a section that one of them lacks by its keys."""
    if isinstance(one, dict) and other is None:
        other = {}
    if isinstance(other, dict) and one is None:
        one = {}
    if isinstance(one, dict) and isinstance(other, dict):
        for key in list(dict.fromkeys([*one, *other])):
            yield from _values(f"{what}.{key}", one.get(key), other.get(key))
    elif json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        yield Difference(what, one, other)


def _without(data: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in keys}


def _part(data: dict[str, Any], key: str) -> dict[str, Any]:
    part = data.get(key)
    return part if isinstance(part, dict) else {}

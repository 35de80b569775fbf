"""Whether `kubernetes.pod_patch` is a patch of a pod: its fields and their types, before anything is merged.

Owns the messages; what a pod has is patching.json's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import Problem, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from launcher.files.document import Keys

_TABLES = json.loads(Path(__file__).with_name("patching.json").read_text(encoding="utf-8"))
TYPES: Mapping[str, Mapping[str, str]] = _TABLES["types"]
KEYS: Mapping[str, str] = _TABLES["keys"]  # a list → the key that tells its entries apart
_DIRECTIVE = "$patch"
_PARTS = {"metadata": "ObjectMeta", "spec": "PodSpec"}
# a type → what Python has for it, and its name
_PLAIN: Mapping[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "text"),
    "int": ((int,), "a whole number"),
    "bool": ((bool,), "true or false"),
    "quantity": ((str, int, float), "a quantity"),
}


def problems(patch: Mapping[str, Any]) -> Iterator[Problem]:
    """What of `patch`, {"metadata": …, "spec": …}, is no field of a pod, or of another type than the field."""
    for part, value in patch.items():
        if isinstance(value, dict) and _DIRECTIVE in value:
            yield _problem(
                (part, _DIRECTIVE), "cannot be of all that a run needs", "name the fields that change"
            )
        else:
            yield from _value(value, _PARTS[part], (part,))


def _problem(at: Keys, what: str, hint: str = "") -> Problem:
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in at)
    return Problem(
        f"kubernetes.pod_patch{path} {what}", hint, about=("cluster", "kubernetes", "pod_patch", *at)
    )


def _value(value: Any, type_: str, at: Keys) -> Iterator[Problem]:
    """Against a type of the table, such as `list[EnvVar]`; null takes away, whatever is there."""
    if value is None or type_ == "object":
        return
    if type_.startswith("list["):
        yield from _list(value, _inner(type_), at)
    elif type_ in _PLAIN:
        kinds, name = _PLAIN[type_]
        if not isinstance(value, kinds) or (isinstance(value, bool) and type_ != "bool"):
            is_scalar = type_ == "str" and isinstance(value, (bool, int, float))
            yield _problem(at, f"is {shown(value)}, not {name}", "write it in quotes" if is_scalar else "")
    elif not isinstance(value, dict):
        yield _problem(at, f"is {shown(value)}, not a mapping", "write `key: value` lines")
    else:
        yield from _mapping(value, type_, at)


def _mapping(value: Mapping[str, Any], type_: str, at: Keys) -> Iterator[Problem]:
    fields = None if type_.startswith("dict[") else TYPES[type_]
    for field, own in value.items():
        if field == _DIRECTIVE:
            # that of a list's entry has been looked at with its list
            if not isinstance(at[-1], int) and own != "replace":
                yield _problem((*at, field), f"is {shown(own)}", "replace, or null instead of the mapping")
        elif fields is None:
            yield from _value(own, _inner(type_), (*at, field))
        elif field not in fields:
            yield _problem((*at, field), "is no field of a pod", did_you_mean(field, fields, 12))
        else:
            yield from _value(own, fields[field], (*at, field))


def _list(value: Any, type_: str, at: Keys) -> Iterator[Problem]:
    if not isinstance(value, list):
        yield _problem(at, f"is {shown(value)}, not a list", "write each entry behind a dash")
        return
    key = KEYS.get(str(at[-1]))
    for number, entry in enumerate(value):
        here = (*at, number)
        if entry is None:
            yield _problem(here, "is null", "leave it out")
            continue
        yield from _value(entry, type_, here)
        if not isinstance(entry, dict):
            continue
        if key and entry.get(key) is None:
            yield _problem(
                here, f"has no {key}", "the ranks' container is `node`" if at[-1] == "containers" else ""
            )
        if _DIRECTIVE in entry and (entry[_DIRECTIVE] != "delete" or not key):
            yield _problem(
                (*here, _DIRECTIVE), f"is {shown(entry[_DIRECTIVE])}", "delete, of an entry with a name"
            )


def _inner(type_: str) -> str:
    return type_.partition("[")[2].removesuffix("]")

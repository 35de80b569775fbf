"""A mixture of texts in a job's `args.data`: [{path: a, weight: 0.7}, {path: b, weight: 0.3}].

Owns its keys and what is wrong with them; the word that ranks get of a source is workloads.py's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.errors import Problem, did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.document import Document

OPTION = "data"
_KEYS = ("path", "weight", "column")
_EXAMPLE = "write data: [{path: a, weight: 0.7}, {path: b, weight: 0.3}]"


def is_one(workload: str, option: str, value: Any) -> bool:
    """Whether an option's value is a mixture, of a workload that takes one."""
    if option != OPTION or workload not in workloads.names() or not workloads.mixes(workload):
        return False
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def problems(document: Document, value: Any) -> Iterator[Problem]:
    """What is wrong with the mixture at args.data, each thing at its place."""
    at = ("args", OPTION)
    if isinstance(value, dict):
        what = f"args.{OPTION}: a list of sources is expected, not {shown(value)}"
        yield Problem(what, _EXAMPLE, document.place(at))
        return
    for index, source in enumerate(value):
        for keys, what, hint in _source(source):
            if not document.is_unread((*at, index, *keys)):
                named = ".".join(map(str, (*at, index, *keys)))
                yield Problem(f"{named} {what}", hint, document.place((*at, index, *keys)))
    weighted = [isinstance(source, dict) and "weight" in source for source in value]
    for index, has in enumerate(weighted):
        if any(weighted) and not has:
            what = f"args.{OPTION}.{index} has no weight, and others have"
            yield Problem(what, "give every source one, or none", document.place((*at, index)))


def _source(source: Any) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(keys below the source, what is wrong, hint)."""
    if not isinstance(source, dict):
        if source is None or isinstance(source, (bool, list)):
            yield (), f"must be a path, or {{path: …, weight: …}}, not {shown(source)}", ""
        return
    for key in source:
        if key not in _KEYS:
            yield (key,), "is not known", did_you_mean(key, _KEYS)
    path = source.get("path")
    if "path" not in source:
        yield (), "has no path", "add it: a file, a folder, a glob, or hf:NAME"
    elif path is None or isinstance(path, (bool, list, dict)) or not str(path).strip():
        yield ("path",), f"must be a file, a folder, a glob or hf:NAME, not {shown(path)}", ""
    if "column" in source and (not isinstance(source["column"], str) or not source["column"]):
        yield ("column",), f"must be the name of a column, not {shown(source['column'])}", ""
    weight = source.get("weight", 1)
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and math.isfinite(weight)
    if not number or weight <= 0:
        yield ("weight",), f"must be a number above 0, not {shown(weight)}", ""

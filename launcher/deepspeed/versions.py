"""The keys of other versions of DeepSpeed than the images', 0.16 to 0.18, as what differs from keys.json.

Owns versions.json, which tests/deepspeed_keys.py writes from the packages, and which table a version has: that of its
minor version. Parameters of optimizers, and what goes together (rules.py), are of keys.json's version for all.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple


class Table(NamedTuple):
    """`keys` as keys.json has them; `gone`, `new`: optimizers that were removed and added since."""

    version: str
    keys: dict[str, Any]
    gone: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


@functools.cache
def ours() -> Table:
    """That of the DeepSpeed in the images."""
    file = _read("keys.json")
    return Table(file["version"], file["keys"])


@functools.cache
def table(version: str) -> Table:
    """The table of `version`, such as 0.18.9; ours for '' and where there is none of its minor version."""
    match = re.match(r"[0-9]+\.[0-9]+", version)
    entry = _read("versions.json").get(match[0]) if match else None
    if entry is None:
        return ours()
    optimizers = entry["optimizers"]
    keys: dict[str, Any] = _patched(ours().keys, entry["keys"])
    return Table(entry["version"], keys, tuple(optimizers["gone"]), tuple(optimizers["new"]))


@functools.cache
def gone() -> frozenset[str]:
    """Optimizers that versions before had, in lower case."""
    return frozenset(
        name for entry in _read("versions.json").values() for name in entry["optimizers"]["gone"]
    )


def note(version: str) -> str:
    """Against which version a job's keys are checked, where that is not the images'; else ''."""
    minor = ".".join(version.split(".")[:2])
    if not version or ours().version.startswith(f"{minor}."):
        return ""
    checked = table(version)
    if checked is ours():
        return f"there is no table of DeepSpeed {version}: its keys are checked against {checked.version}"
    return f"DeepSpeed's keys are checked against {checked.version}, and what goes together against {ours().version}"


def _patched(data: Any, patch: dict[str, Any]) -> Any:
    """`data` with a JSON Merge Patch: https://www.rfc-editor.org/rfc/rfc7386"""
    made = dict(data) if isinstance(data, dict) else {}
    for key, value in patch.items():
        if value is None:
            made.pop(key, None)
        else:
            made[key] = _patched(made.get(key), value) if isinstance(value, dict) else value
    return made


def _read(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return read

"""Profiles of ranks in a run folder: profiles/<attempt>-<number>/ with profile.json and a trace a rank.

Owns where they lie; docker/profiling.py and the ranks write them. On Kubernetes that folder is the pods', and this one
has what came from `launcher profile`.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from launcher import atomic
from launcher.errors import SubmitError

if TYPE_CHECKING:
    from pathlib import Path

FOLDER, FILE = "profiles", "profile.json"
_NAME, _FILE = (
    re.compile(r"[0-9A-Za-z-]{1,60}"),
    re.compile(r"rank-[0-9]{1,9}\.(pt\.trace\.json\.gz|nsys-rep)"),
)


def newest(folder: Path) -> Path | None:
    """The folder of the newest profile; None without any."""
    found = [(file.stat().st_mtime, file.parent) for file in (folder / FOLDER).glob(f"*/{FILE}")]
    return max(found)[1] if found else None


def checked(found: Any) -> dict[str, Any]:
    """`found`, an answer of a node entry, which may be anybody's program. Raises ValueError for what is none."""
    if not isinstance(found, dict):
        raise ValueError("it is no object")
    ranks = found.get("ranks", [])
    names = [found.get("name", "")]
    if isinstance(ranks, list) and all(isinstance(rank, dict) for rank in ranks):
        names += [rank.get(key, "") for rank in ranks for key in ("host", "file", "error")]
        numbers = [rank.get("rank") for rank in ranks]
        numbers += [rank.get("bytes") for rank in ranks if "error" not in rank]
        if all(type(n) is int and n >= 0 for n in numbers) and all(isinstance(n, str) for n in names):
            return found if "error" in found or ranks else {**found, "error": "it names no ranks"}
    raise ValueError("it is no profile")


def keep(folder: Path, found: dict[str, Any]) -> Path:
    """Write the document of a profile that came from elsewhere, unless it is there; returns its folder.

    Raises SubmitError for names that no node entry gives, and OSError where it cannot be written.
    """
    name, files = str(found.get("name", "")), [rank["file"] for rank in found["ranks"]]
    if not _NAME.fullmatch(name) or not all(file == "" or _FILE.fullmatch(file) for file in files):
        raise SubmitError(f"the profile has names that are none: {name!r}")
    file = folder / FOLDER / name / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        atomic.write(file, json.dumps(found, indent=1).encode() + b"\n")
    return file.parent

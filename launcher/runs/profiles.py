"""Profiles of ranks in a run folder: profiles/<attempt>-<number>/ with profile.json and a trace a rank.

Owns where they lie; docker/profiling.py and the ranks write them. On Kubernetes that folder is the pods', and this one
has what came from `launcher profile`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from launcher import atomic
from launcher.errors import SubmitError

if TYPE_CHECKING:
    from pathlib import Path

FOLDER, FILE = "profiles", "profile.json"


def newest(folder: Path) -> Path | None:
    """The folder of the newest profile; None without any."""
    found = [(file.stat().st_mtime, file.parent) for file in (folder / FOLDER).glob(f"*/{FILE}")]
    return max(found)[1] if found else None


def keep(folder: Path, found: dict[str, Any]) -> Path:
    """Write the document of a profile that came from elsewhere, unless it is there; returns its folder.

    Raises SubmitError for names that no node entry gives, and OSError where it cannot be written.
    """
    name, files = str(found.get("name", "")), [rank["file"] for rank in found["ranks"]]
    if not name.replace("-", "").isalnum() or any("/" in file for file in files):
        raise SubmitError(f"the profile has names that are none: {name!r}")
    file = folder / FOLDER / name / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        atomic.write(file, json.dumps(found, indent=1).encode() + b"\n")
    return file.parent

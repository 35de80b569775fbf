"""What hung, as the node entries left it in a run folder: stacks/<attempt>-<number>/verdict.json, and a text a rank.

Owns reading it; docker/hang.py writes it.

On Kubernetes that folder is the pods', and this one has what came from `launcher stacks`.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from launcher import atomic
from launcher.runs import reading

if TYPE_CHECKING:
    from pathlib import Path

FOLDER, FILE = "stacks", "verdict.json"


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """(its folder, the newest verdict.json); None where nothing was taken, or it cannot be read."""
    found = []
    for file in (folder / FOLDER).glob(f"*/{FILE}"):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            verdict = json.loads(reading.text(file))
            if isinstance(verdict, dict) and isinstance(verdict.get("verdict"), str):
                found.append((file.stat().st_mtime, file.parent, verdict))
    return max(found, key=lambda entry: entry[0])[1:] if found else None


def keep(folder: Path, verdict: dict[str, Any]) -> None:
    """Write a verdict that came from elsewhere, unless it is there."""
    name = str(verdict.get("name", ""))
    if not name or not name.replace("-", "").isalnum():
        return
    file = folder / FOLDER / name / FILE
    with contextlib.suppress(OSError):
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic.write(file, json.dumps(verdict, indent=1).encode() + b"\n")

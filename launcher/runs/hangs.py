"""What hung, as the node entries left it in a run folder: stacks/<attempt>-<number>/verdict.json, and a text a rank.

Owns reading it; docker/hang.py writes it.

On Kubernetes that folder is the pods', and this one has what came from `launcher stacks`.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from launcher import atomic
from launcher.namedtuple import NamedTuple
from launcher.runs import reading, record

if TYPE_CHECKING:
    from pathlib import Path

FOLDER, FILE = "stacks", "verdict.json"


class Hang(NamedTuple):
    """No rank advanced: `rank` and `host` are whom the others waited for, -1 and '' where it was nobody in particular.

    `of_host`: the host was to blame. `time`: Unix time. `folder`: where the stacks lie.
    """

    verdict: str
    rank: int
    host: str
    of_host: bool
    time: float
    folder: str


def last(folder: Path) -> Hang | None:
    """The newest hang of the run, whatever became of it; None without any."""
    found = newest(folder, cause="stall")
    if found is None:
        return None
    where, said = found
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        rank, time = int(said.get("rank", -1)), float(said.get("time", 0.0))
        host, of_host = str(said.get("host", "")), bool(said.get("of_host"))
        return Hang(said["verdict"], rank, host, of_host=of_host, time=time, folder=str(where))
    return None


def newest(folder: Path, cause: str = "") -> tuple[Path, dict[str, Any]] | None:
    """(its folder, the newest verdict.json); None where nothing was taken, or it cannot be read.

    `cause`: only of these, "stall" or "asked".
    """
    found = []
    for file in (folder / FOLDER).glob(f"*/{FILE}"):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            verdict = record.strict_json(reading.text(file))
            wanted = isinstance(verdict, dict) and cause in ("", verdict.get("cause"))
            if wanted and isinstance(verdict.get("verdict"), str):
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

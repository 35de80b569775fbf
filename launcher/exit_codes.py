"""What a run's exit code means: docker/exit_codes.json, the one table that node entry, ranks and scripts share.

Owns reading it; who ends with which code is said in the table.
"""

from __future__ import annotations

import json
from typing import Literal

from launcher import ROOT
from launcher.namedtuple import NamedTuple


class ExitCode(NamedTuple):
    """`restart`: whether the same job may end otherwise the next time. "free": nobody's fault, not counted.

    `kubernetes`: what to do there, where that is something else than `advice`.
    """

    name: str
    code: int
    ends: str
    meaning: str
    advice: str
    restart: Literal["never", "counted", "free"]
    kubernetes: str = ""


_TABLE = json.loads((ROOT / "docker" / "exit_codes.json").read_text(encoding="ascii"))
BY_NAME = {name: ExitCode(name=name, **entry) for name, entry in _TABLE.items()}
BY_CODE = {entry.code: entry for entry in BY_NAME.values()}
SAVED = BY_NAME["SAVED"].code


def with_restart(restart: str) -> list[int]:
    """The codes of one kind, in order."""
    return sorted(entry.code for entry in BY_NAME.values() if entry.restart == restart)


def numbers() -> dict[str, int]:
    """Name → code, for templates."""
    return {entry.name: entry.code for entry in BY_NAME.values()}

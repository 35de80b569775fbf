"""One thing that was looked at, and the two ways to look: for a program, and at what one says."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

State = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Finding:
    area: str
    name: str
    state: State
    detail: str


def tool(area: str, name: str, use: str) -> Finding:
    """Where the program `name` is; `use` says what for when it is missing."""
    path = shutil.which(name)
    return Finding(area, name, "ok" if path else "missing", path or use)


def asked(area: str, name: str, words: Sequence[str], use: str = "") -> Finding:
    """What a command prints, on one line; a warning with its last words when it fails."""
    if not shutil.which(words[0]):
        return Finding(area, name, "missing", use or f"{words[0]} is not on PATH")
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(area, name, "warning", str(error))
    if done.returncode == 0:
        return Finding(area, name, "ok", ", ".join(filter(None, map(str.strip, done.stdout.splitlines()))))
    refused = done.stderr.strip().splitlines()
    return Finding(
        area, name, "warning", refused[-1] if refused else f"{words[0]} ended with {done.returncode}"
    )

"""A check of this machine, and the two ways to make one: find a program, or run a command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

State = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Check:
    """Something that this machine has or lacks: `detail` is its version or place, or what it is needed for."""

    area: str
    name: str
    state: State
    detail: str


def program(area: str, name: str, use: str) -> Check:
    """Where the program `name` is; when it is missing, `use` says what it is for."""
    path = shutil.which(name)
    return Check(area, name, "ok" if path else "missing", path or use)


def command(area: str, name: str, words: Sequence[str], use: str = "") -> Check:
    """What a command prints, on one line; a warning with the last line of its stderr when it fails."""
    if not shutil.which(words[0]):
        return Check(area, name, "missing", use or f"{words[0]} is not on PATH")
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(area, name, "warning", str(error))
    if done.returncode == 0:
        return Check(area, name, "ok", ", ".join(filter(None, map(str.strip, done.stdout.splitlines()))))
    lines = done.stderr.strip().splitlines() or [f"{words[0]} exited with {done.returncode}"]
    return Check(area, name, "warning", lines[-1])

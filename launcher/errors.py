"""Every way a command can fail, each with its exit code; `cli.main` catches them in one place.

Owns exit codes and the form of a message; the words are written where the problem is found.

    LauncherError
    ├── SpecError          2  the job or cluster file, or the command line, is wrong
    ├── PlanError          3  valid, but it cannot work
    ├── SubmitError        4  the scheduler said no
    ├── RunNotFoundError   5  no such run
    └── ToolMissingError   6  a program or a package is not here
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, order=True)
class Place:
    """Where in a text a problem is. `line` and `column` count from 1; 0 means the whole source."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and what to do next (`hint`, may be empty)."""

    message: str
    hint: str = ""
    place: Place | None = None

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        return f"{where}{self.message}" + (f"; {self.hint}" if self.hint else "")


class LauncherError(Exception):
    """A failure the user can do something about. `problems` is never empty; all are shown at once."""

    exit_code: ClassVar[int] = 70

    def __init__(self, *problems: Problem | str, hint: str = "") -> None:
        self.problems = [p if isinstance(p, Problem) else Problem(p, hint) for p in problems]
        super().__init__("\n".join(map(str, self.problems)))


class SpecError(LauncherError):
    exit_code = 2


class PlanError(LauncherError):
    exit_code = 3


class SubmitError(LauncherError):
    exit_code = 4


class RunNotFoundError(LauncherError):
    exit_code = 5


class ToolMissingError(LauncherError):
    exit_code = 6


def did_you_mean(word: str, known: Iterable[str], most: int = 40) -> str:
    """The known word closest to `word`, as a hint; all of them when none is close and there are up to `most`.

    Returns an empty string when there are too many.
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "it can be " + ", ".join(names) if 0 < len(names) <= most else ""


def shown(value: object) -> str:
    """A value of a file for a message: as YAML writes it, on one line, cut when it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

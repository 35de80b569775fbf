"""Every way a command can fail, each with its exit code; `cli.main` catches them in one place.

Owns exit codes and the form of a message; the words are written where the problem is found. What is found after the
files were read names its field (`about`), and `at` looks up its place.

    LauncherError
    ├── SpecError          2  the job or cluster file, or the command line, is wrong
    ├── PlanError          3  valid, but it cannot work
    ├── SubmitError        4  the scheduler said no
    │   └── UnnamedJobError   it may have said yes, and what it answered cannot be read
    ├── RunNotFoundError   5  no such run
    └── ToolMissingError   6  a program or a package is not here
"""

from __future__ import annotations

import difflib
import functools
import json
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    # "job" or "cluster" → the path of a field in that file → its place
    Places = Mapping[str, Mapping[tuple[str | int, ...], "Place"]]

Failure = TypeVar("Failure", bound="LauncherError")
Files = TypeVar("Files")


class Place(NamedTuple):
    """Where in a text a problem is. `line` and `column` count from 1; 0 means the whole source."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


class Problem(NamedTuple):
    """One thing that is wrong: where, what, and what to do next (`hint`, may be empty).

    `about` is the field of a file, such as ("job", "batch", "global"), where the place is not known yet.
    """

    message: str
    hint: str = ""
    place: Place | None = None
    about: tuple[str | int, ...] = ()

    def at(self, places: Places) -> Problem:
        """With the place of the field that it is about, or of the nearest one above it that was written."""
        if self.place or not self.about:
            return self
        file, *path = self.about
        written = places.get(str(file), {})
        while path and tuple(path) not in written:
            path.pop()
        return self._replace(place=written.get(tuple(path)))

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        # after a list the hint is no part of its last line
        link = "\n" if "\n" in self.message else "; "
        return f"{where}{self.message}" + (f"{link}{self.hint}" if self.hint else "")


def of_field(file: str, field: str, what: str, hint: str = "", *, key: str = "") -> Problem:
    """A problem whose message begins with its field, such as `kubernetes.shm` of the "cluster" `file`.

    `key`: the entry of the field that it is about.
    """
    named, below = (f"{field}: {key}", (key,)) if key else (field, ())
    return Problem(f"{named} {what}", hint, about=(file, *field.split("."), *below))


class LauncherError(Exception):
    """A failure the user can do something about. `problems` is never empty; all are shown at once."""

    exit_code: ClassVar[int] = 70

    def __init__(self, *problems: Problem | str, hint: str = "") -> None:
        told = (p if isinstance(p, Problem) else Problem(p, hint) for p in problems)
        self.problems = list(dict.fromkeys(told))  # what was found in two ways is told once
        super().__init__("\n".join(map(str, self.problems)))

    def at(self: Failure, places: Places) -> Failure:
        """The same with the places of the fields that its problems are about, in the order of the files."""
        located = (problem.at(places) for problem in self.problems)
        return type(self)(*sorted(located, key=lambda problem: problem.place or Place("")))


def located(render: Callable[[Any], Files]) -> Callable[[Any], Files]:
    """`render`, a function of a Plan, whose failures say where in the plan's files the fault is."""

    @functools.wraps(render)
    def wrapped(plan: Any) -> Files:
        try:
            return render(plan)
        except LauncherError as error:
            raise error.at(plan.places) from None

    return wrapped


class SpecError(LauncherError):
    exit_code = 2


class PlanError(LauncherError):
    exit_code = 3


class SubmitError(LauncherError):
    exit_code = 4


class UnnamedJobError(SubmitError):
    """The scheduler may have taken a job without saying as what: its folder must stay."""


class BusyRunError(SubmitError):
    """Another command has the run in hand, and its folder."""


class RunNotFoundError(LauncherError):
    exit_code = 5


class ToolMissingError(LauncherError):
    exit_code = 6


def did_you_mean(word: str, known: Iterable[str], most: int = 40) -> str:
    """The known word closest to `word`, as a hint; all of them when none is close and there are up to `most`.

    Returns an empty string when there are too many.
    """
    names = sorted(known)
    close = [
        near
        for form in (word, word.lower())
        for near in difflib.get_close_matches(form, names, n=1, cutoff=0.65)
    ]
    if close:
        return f"did you mean {close[0]!r}?"
    return "it can be " + ", ".join(names) if 0 < len(names) <= most else ""


def shown(value: object) -> str:
    """A value of a file for a message: as YAML writes it, on one line, cut when it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""shell, stacks, profile: what is asked of ranks that run."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.cli import streams
from launcher.cli.verbs import again
from launcher.cli.verbs.shared import OK
from launcher.errors import PlanError, Problem, SpecError

if TYPE_CHECKING:
    from launcher.cli import options

_MOST_STEPS = 1000  # of which a trace is already too large for any viewer


def shell(given: options.Shell) -> int:
    run = again.single(given.run)
    from launcher.runs.status import Selection
    from launcher.submission import shell as shells  # it reads YAML

    terminal = sys.stdin is not None and sys.stdin.isatty()
    words = shells.words(run, Selection(given.rank, given.host), terminal)
    sys.stdout.flush()
    sys.stderr.flush()
    # in place of this process, so that the terminal, its size and Ctrl-C are the shell's
    os.execvp(words[0], words)


def stacks(given: options.Run) -> int:
    run = again.single(given.run)
    from launcher.reports import stacks as report
    from launcher.reports import tables
    from launcher.submission import stacks as asking  # it reads YAML

    found = asking.take(run)
    print(tables.dump(found) if given.json else report.text(found))
    return OK


def profile(given: options.Profile) -> int:
    run = again.single(given.run)
    from launcher.reports import profiles as report
    from launcher.reports import tables
    from launcher.runs import logs, profiles
    from launcher.submission import profiles as asking  # it reads YAML

    try:
        with streams.line() as told:
            found = asking.take(run, asking.Wish(**_wish(given, logs.hosts(run) * run.slots)), told)
    except KeyboardInterrupt:
        streams.say(f"ranks that have begun go on with it: {run.folder / profiles.FOLDER}")
        raise
    print(
        tables.dump(found) if given.json else report.text(found, run.folder / profiles.FOLDER / found["name"])
    )
    failed = [rank for rank in found["ranks"] if "error" in rank]
    for rank in failed:
        streams.say(asking.problem(run, rank))
    return PlanError.exit_code if failed else OK


def _wish(given: options.Profile, world: int) -> dict[str, Any]:
    """What is wished, of `world` ranks. Raises SpecError with everything that is wrong."""
    found: dict[str, Any] = {"tool": given.tool}
    problems = list[Problem]()
    for name, read in (
        ("ranks", lambda: _ranks(given.ranks, world)),
        ("steps", lambda: _steps(given.steps)),
        ("limit", lambda: _limit(given.timeout)),
    ):
        try:
            found[name] = read()
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(*problems)
    return found


def _ranks(text: str, world: int) -> tuple[int, ...]:
    """`0,5`, `0-7` or `all` of `world` ranks. Raises SpecError."""
    if text == "all":
        return tuple(range(world))
    parts = [re.fullmatch(r"([0-9]{1,7})(?:-([0-9]{1,7}))?", part.strip()) for part in text.split(",")]
    ends = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    # one that there is not stays in, and is refused
    named = {rank for low, high in ends if low <= high for rank in (low, *range(low, min(high, world) + 1))}
    if not all(parts) or not named:
        raise SpecError(f"--ranks {text!r} names no ranks", hint="write 0,5 or 0-7 or all")
    return tuple(sorted(named))


def _steps(text: str) -> int:
    """Raises SpecError."""
    if not re.fullmatch("[0-9]{1,4}", text) or not 0 < int(text) <= _MOST_STEPS:
        raise SpecError(f"--steps {text!r} is no number from 1 to {_MOST_STEPS}")
    return int(text)


def _limit(text: str) -> int:
    """Seconds. Raises SpecError."""
    try:
        if seconds := units.seconds(text):
            return seconds
    except ValueError as error:
        raise SpecError(f"--timeout: {error}") from None
    raise SpecError("--timeout is 0", hint="write how long a step may take, such as 30m")

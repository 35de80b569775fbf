"""rerun, compare: a run once more, and what tells two runs apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import shared
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from launcher.cli import options
    from launcher.runs.record import Run


def rerun(given: options.Rerun) -> int:
    run = single(given.run)
    from launcher.submission import rerun as reruns  # it reads YAML

    prepared = reruns.prepare(run, given.force)
    for what in prepared.changed:
        say(f"warning: {run.id}: {what}")
    again = reruns.start(run, prepared.plan)
    say(f"{again.id}: {run.id} once more, submitted to {again.scheduler}; folder {again.folder}")
    if given.wait:
        from launcher import schedulers
        from launcher.reports import progress

        return progress.follow(again, schedulers.load(again.scheduler).status)
    say(f"compare them when it has ended: python -m launcher compare {run.id} {again.id}")
    print(again.id)
    return OK


def compare(given: options.Compare) -> int:
    from launcher.reports import comparison

    (one, first), (other, second) = map(_named, (given.one, given.other))
    if first.resolve() == second.resolve():
        from launcher.errors import SpecError

        raise SpecError(f"{one} is one run", hint="name another one to compare it with")
    if one == other:  # copies, or runs of two folders of runs
        one, other = str(first), str(second)
    compared = comparison.read({one: first, other: second})
    print(comparison.as_json(compared) if given.json else comparison.text(compared))
    return OK


def _named(name: str) -> tuple[str, Path]:
    """Name and folder of a run, by its id or, with a slash, by its folder."""
    if "/" in name:
        return Path(name).resolve().name, Path(name)
    run = single(name)
    return run.id, run.folder


def single(name: str) -> Run:
    """The run `name`. Raises RunNotFoundError, and SpecError for a pipeline."""
    from launcher.errors import SpecError

    pipeline = shared.find(name)
    if not pipeline.is_plain:
        stages = ", ".join(run.id for run in pipeline.present)
        raise SpecError(f"{pipeline.id} is a pipeline", hint=f"name one of its runs: {stages}")
    return pipeline.present[0]

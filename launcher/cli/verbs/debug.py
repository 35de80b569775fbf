"""local --debug: a run in the foreground, whose rank 0 has the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import launch, shared
from launcher.cli.verbs.shared import JOB_FAILED, OK

if TYPE_CHECKING:
    from launcher.cli import options
    from launcher.runs.record import Run


def debug(given: options.Launch) -> int:
    from launcher.errors import PlanError, Problem, SpecError
    from launcher.submission import foreground, pipelines

    if not given.submits or given.after:
        raise SpecError(
            "--debug goes neither with --dry-run nor -o nor --after", hint="leave one of them out"
        )
    stages = shared.load_stages(given.job, given)
    if stages.name:
        raise SpecError("--debug is for jobs, not for a pipeline", hint="debug a stage's job")
    plans = pipelines.plan_all(stages, shared.planner(given.name), "local")
    plan = plans[""]
    if plan.cluster.local.container != "none":
        what, about = "a rank in a container does not get this terminal", ("cluster", "local", "container")
        hint = "use --set cluster.local.container=none, or `launcher shell` beside the running rank"
        raise PlanError(Problem(what, hint, about=about)).at(plan.places)
    launch.require_all(given, plans)
    run, process = foreground.start(plan, _announce)
    code = foreground.follow(run, process)
    say(f"{run.id}: ended with {code}; folder {run.folder}")
    return JOB_FAILED if code else OK


def _announce(run: Run) -> None:
    say(f"{run.id}: rank 0 has this terminal, other ranks write to {run.folder / 'logs'}")

"""check: validate jobs and render them for every scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import shared
from launcher.cli.verbs.shared import OK
from launcher.errors import LauncherError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.cli import options
    from launcher.planning.plan import Plan


def check(given: options.Check) -> int:
    return max(_check(path, given) for path in given.jobs)


def _check(path: str, given: options.Check) -> int:
    from launcher import schedulers
    from launcher.submission import pipelines

    worst, plan_of = OK, shared.planner()
    try:
        stages = shared.load_stages(path, given)
        plans = pipelines.plan_all(stages, plan_of, "")
        for plan in plans.values():
            shared.warn(plan, given.strict)
            shared.require_fit(plan, force=False)
    except LauncherError as error:
        return _say_problems(path, error)
    for name in schedulers.SCHEDULERS:
        try:
            if stages.name:  # what stages can read of each other differs
                plans = pipelines.plan_all(stages, plan_of, name)
            _require_images(plans, name)
        except LauncherError as error:
            worst = max(worst, _say_problems(f"{path}: not on {name}", error))
            continue
        try:
            for plan in plans.values():
                schedulers.load(name).render(plan)
        except LauncherError as error:
            _say_problems(f"{path}: not on {name}", error)
        else:
            print(f"{path}: ok on {name}")
    return worst


def _require_images(plans: Mapping[str, Plan], scheduler: str) -> None:
    for plan in plans.values():
        shared.require_image(plan, scheduler, force=False, ask=False)


def _say_problems(job: str, error: LauncherError) -> int:
    """Say every problem of one job among several: one that is not in its own file names the job first."""
    for problem in error.problems:
        own = problem.place is not None and problem.place.source == job
        say(f"{problem}" if own else f"{job}: {problem}")
    return error.exit_code

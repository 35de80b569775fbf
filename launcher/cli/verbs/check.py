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
    """0 when the job is possible on every scheduler that is named by --on, or on any where none is named."""
    from launcher import schedulers
    from launcher.submission import pipelines

    plan_of = shared.planner()
    try:
        stages = shared.load_stages(path, given)
        plans = pipelines.plan_all(stages, plan_of, "")
        for plan in plans.values():
            shared.warn(plan, given.strict)
            shared.require_fit(plan, force=False)
    except LauncherError as error:
        return _say_problems(path, error)
    named = [schedulers.ALIASES.get(name, name) for name in given.on or _here(given)]
    codes, unusable = [], OK
    for name in dict.fromkeys(named or schedulers.SCHEDULERS):
        try:
            if stages.name:  # what stages can read of each other differs
                plans = pipelines.plan_all(stages, plan_of, name)
            for plan in plans.values():
                shared.require_image(plan, name, force=False, ask=given.live)
        except LauncherError as error:
            unusable = max(unusable, _say_problems(f"{path}: not on {name}", error))
            continue
        code = _render(name, path, plans)
        codes.append(_live(name, path, plans) if given.live and code == OK else code)
    return max([unusable, *codes]) if named or all(codes) else unusable


def _render(scheduler: str, path: str, plans: Mapping[str, Plan]) -> int:
    from launcher import schedulers

    try:
        for plan in plans.values():
            schedulers.load(scheduler).render(plan)
            shared.require_program(plan, scheduler)
    except LauncherError as error:
        return _say_problems(f"{path}: not on {scheduler}", error)
    print(f"{path}: ok on {scheduler}")
    return OK


def _here(given: options.Check) -> list[str]:
    """With --live, the scheduler that this machine has signs of."""
    from launcher import discovery

    return [discovery.here()] if given.live else []


def _live(scheduler: str, path: str, plans: Mapping[str, Plan]) -> int:
    """What the scheduler itself says of each stage."""
    from launcher import discovery, schedulers

    code = OK
    for name, plan in plans.items():
        title = f"{path}: {name}" if name else path
        try:
            said = discovery.live(scheduler, plan, schedulers.load(scheduler).render(plan))
        except LauncherError as error:
            code = max(code, _say_problems(title, error))
        else:
            print(f"{title}: {said}")
    return code


def _say_problems(job: str, error: LauncherError) -> int:
    """Say every problem of one job among several: one that is not in its own file names the job first."""
    for problem in error.problems:
        own = problem.place is not None and problem.place.source == job
        say(f"{problem}" if own else f"{job}: {problem}")
    return error.exit_code

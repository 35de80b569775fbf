"""Where and when a job may start: away from hosts that failed recently, and after other runs.

Owns `--exclude-bad` and `--after`; the list of hosts is `badhosts`', how a run waits is its scheduler's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import schedulers
from launcher.errors import LauncherError, PlanError, Problem
from launcher.planning import workspace
from launcher.runs import badhosts, record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.runs.record import Run
    from launcher.runs.status import Status


_CALLED = {"slurm": "Slurm", "local": "this machine", "kubernetes": "Kubernetes"}
_OVER = {"FAILED": "it has failed", "CANCELLED": "it was cancelled"}


def bad_hosts(say: Callable[[str], None]) -> tuple[str, ...]:
    """The hosts that are on the list now; each is said with its reason."""
    listed = badhosts.current(workspace.runs())
    for bad in listed:
        say(f"without {bad.host}: {bad.reason}; until {bad.until:%Y-%m-%d %H:%M}")
    say(f"{len(listed)} hosts are excluded; the list is {badhosts.path(str(workspace.runs()))}")
    return tuple(bad.host for bad in listed)


def dependency(run: Run) -> str:
    """How a plan's `after` names a run: by Slurm's id, and on this machine by its folder."""
    return run.native_id if run.scheduler == "slurm" else str(run.folder)


def dependencies(names: Sequence[str], scheduler: str) -> tuple[str, ...]:
    """The dependencies on the named runs, without those that have succeeded: Slurm may have forgotten them.

    Raises all problems at once: RunNotFoundError, and PlanError for a run that can never succeed or is not on
    `scheduler`.
    """
    runs: dict[str, Run] = {}
    errors: list[LauncherError] = []
    for name in names:
        try:
            runs[name] = record.find(workspace.runs(), name)
        except LauncherError as error:
            errors.append(error)
    waits = []
    for run, now in zip(runs.values(), schedulers.statuses(list(runs.values())), strict=True):
        problem = _problem(run, now, scheduler)
        if problem:
            errors.append(PlanError(problem))
        elif now.state != "SUCCEEDED":
            waits.append(dependency(run))
    if errors:
        raise type(errors[0])(*(problem for error in errors for problem in error.problems))
    return tuple(waits)


def still_before(run: Run) -> list[str]:
    """The dependencies of a run that is submitted again, on those it waited for the first time.

    Raises PlanError for one that can never succeed. One whose folder is gone is passed over.
    """
    if run.scheduler != "slurm":  # on this machine the script itself waits, on Kubernetes the pipeline
        return []
    from launcher.schedulers import slurm

    jobs = set(slurm.waited_for(run))
    if not jobs:
        return []
    listed, _ = record.listed(run.folder.parent)
    before = [o for o in listed if o.scheduler == run.scheduler and jobs & {o.native_id, *o.former}]
    waits, problems = [], []
    for other, now in zip(before, schedulers.statuses(before), strict=True):
        if now.state in _OVER:
            hint = f"`python -m launcher resume {other.id}` first, or add --now"
            problems.append(Problem(f"{run.id} runs after {other.id}: {_OVER[now.state]}", hint))
        elif now.state != "SUCCEEDED":
            waits.append(dependency(other))
    if problems:
        raise PlanError(*problems)
    return waits


def _problem(run: Run, now: Status, scheduler: str) -> Problem | None:
    if run.scheduler != scheduler:
        where = _CALLED.get(scheduler, scheduler)
        return Problem(f"--after {run.id}: it runs on {run.scheduler}, not on {where}")
    if now.state in _OVER:
        return Problem(f"--after {run.id}: {_OVER[now.state]}", f"`python -m launcher resume {run.id}` first")
    return None

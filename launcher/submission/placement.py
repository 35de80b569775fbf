"""Where and when a job may start: away from hosts that failed lately, and after other runs.

Owns `--exclude-bad` and `--after`; the list of hosts is `badhosts`', how a run waits is its scheduler's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import schedulers
from launcher.errors import PlanError
from launcher.planning import workspace
from launcher.runs import badhosts, record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run


_CALLED = {"slurm": "Slurm", "local": "this machine"}
_OVER = {"FAILED": "it has failed", "CANCELLED": "it was cancelled"}


def of(
    plans: Sequence[Plan],
    scheduler: str,
    after: Sequence[str],
    exclude_bad: bool,
    say: Callable[[str], None],
) -> list[Plan]:
    """`plans` with the hosts to avoid, told through `say`, and the jobs to wait for. Raises as `jobs` does."""
    exclude, waits = bad_hosts(say) if exclude_bad else (), jobs(after, scheduler)
    return [plan._replace(exclude=exclude, after=waits) for plan in plans]


def bad_hosts(say: Callable[[str], None]) -> tuple[str, ...]:
    """The hosts that are on the list now; each is told with its reason."""
    found = badhosts.current(workspace.runs())
    for bad in found:
        say(f"without {bad.host}: {bad.reason}; until {bad.until:%Y-%m-%d %H:%M}")
    say(f"{len(found)} hosts are excluded; the list is {badhosts.path(str(workspace.runs()))}")
    return tuple(bad.host for bad in found)


def word(run: Run) -> str:
    """How a plan's `after` names a run: by Slurm's id, and on this machine by its folder."""
    return run.native_id if run.scheduler == "slurm" else str(run.folder)


def jobs(names: Sequence[str], scheduler: str) -> tuple[str, ...]:
    """The words of the named runs, without those that have succeeded: Slurm may have forgotten them.

    Raises RunNotFoundError, and PlanError for a run that can never succeed or is not on `scheduler`.
    """
    found = [record.find(workspace.runs(), name) for name in names]
    foreign = [run for run in found if run.scheduler != scheduler]
    if foreign:
        where = _CALLED.get(scheduler, scheduler)
        raise PlanError(f"--after {foreign[0].id}: it runs on {foreign[0].scheduler}, not on {where}")
    waits = []
    for run, now in zip(found, schedulers.statuses(found), strict=True):
        if now.state in _OVER:
            hint = f"`python -m launcher resume {run.id}` first"
            raise PlanError(f"--after {run.id}: {_OVER[now.state]}", hint=hint)
        if now.state != "SUCCEEDED":
            waits.append(word(run))
    return tuple(waits)

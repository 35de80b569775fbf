"""Where and when a job may start: away from hosts that failed lately, and after other runs.

Owns `--exclude-bad` and `--after`; the list of hosts is `badhosts`', the options of sbatch are the scheduler's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from launcher import badhosts, runs, schedulers, site
from launcher.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.plan import Plan


_OVER = {"FAILED": "it has failed", "CANCELLED": "it was cancelled"}


def of(
    plans: Sequence[Plan], after: Sequence[str], exclude_bad: bool, say: Callable[[str], None]
) -> list[Plan]:
    """`plans` with the hosts to avoid, told through `say`, and the jobs to wait for. Raises as `jobs` does."""
    exclude, waits = bad_hosts(say) if exclude_bad else (), jobs(after)
    return [dataclasses.replace(plan, exclude=exclude, after=waits) for plan in plans]


def bad_hosts(say: Callable[[str], None]) -> tuple[str, ...]:
    """The hosts that are on the list now; each is told with its reason."""
    found = badhosts.current(site.runs())
    for bad in found:
        say(f"without {bad.host}: {bad.reason}; until {bad.until:%Y-%m-%d %H:%M}")
    say(f"{len(found)} hosts are excluded; the list is {badhosts.path(str(site.runs()))}")
    return tuple(bad.host for bad in found)


def jobs(names: Sequence[str]) -> tuple[str, ...]:
    """Slurm's ids of the named runs, without those that have succeeded: Slurm may have forgotten them.

    Raises RunNotFoundError, and PlanError for a run that can never succeed or is not on Slurm.
    """
    found = [runs.find(site.runs(), name) for name in names]
    foreign = [run for run in found if run.scheduler != "slurm"]
    if foreign:
        raise PlanError(f"--after {foreign[0].id}: it runs on {foreign[0].scheduler}, not on Slurm")
    waits = []
    for run, now in zip(found, schedulers.statuses(found), strict=True):
        if now.state in _OVER:
            hint = f"`python -m launcher resume {run.id}` first"
            raise PlanError(f"--after {run.id}: {_OVER[now.state]}", hint=hint)
        if now.state != "SUCCEEDED":
            waits.append(run.native_id)
    return tuple(waits)

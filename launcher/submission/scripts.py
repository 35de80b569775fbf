"""What submitting a job again would change in its script, against the last run of the job.

Owns which run that is, and the diff: the script's text, with the run's own name and folder taken as the same.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import schedulers
from launcher.errors import LauncherError, RunNotFoundError
from launcher.runs import reading, record

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run

_SCRIPT = "job.sh"


def diff(plan: Plan, scheduler: str) -> str:
    """A unified diff from the script of the job's last run to that of `plan`; '' when nothing would change.

    Raises RunNotFoundError where the job has no run on `scheduler`, and what rendering raises.
    """
    last = newest(plan, scheduler)
    try:
        before = reading.text(last.folder / _SCRIPT, errors="surrogateescape")
    except OSError as error:
        raise RunNotFoundError(f"{last.folder / _SCRIPT} cannot be read: {error.strerror}") from None
    # its folder, id and ports follow from the id, which is the plan's hash: with the same one, only the plan differs
    after = schedulers.load(scheduler).render(plan._replace(id=last.id))[_SCRIPT]
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"{last.id}/{_SCRIPT}",
        f"{plan.job.name}",
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def newest(plan: Plan, scheduler: str) -> Run:
    """The run of the plan's job on `scheduler` that was submitted last. Raises RunNotFoundError without one."""
    runs, _ = record.listed(Path(plan.workspace.runs))
    for run in runs:
        if run.scheduler == scheduler and _job(run) == plan.job.name:
            return run
    raise RunNotFoundError(
        f"job {plan.job.name} has no run on {scheduler} in {plan.workspace.runs}",
        hint=f"`python -m launcher {scheduler} JOB --dry-run` prints the whole script",
    )


def _job(run: Run) -> str:
    """The name of the job that `run` is of, which its plan.json has."""
    try:
        data = record.read_json(run.folder / "plan.json")
        return str(data["job"]["name"])
    except (LauncherError, KeyError, TypeError):
        return ""

"""What a scheduler is: five functions. Adding one is a module here, a template, and a line in SCHEDULERS.

Owns the table; each module owns its scheduler.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Protocol, cast

from launcher.errors import LauncherError, SpecError, SubmitError, did_you_mean
from launcher.runs.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.errors import Problem
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.status import Selection
    from launcher.runs.unpacking import Line

Files = dict[str, str]

# name on the command line → module; imported on use, so that no verb pays for a scheduler it does not need
SCHEDULERS = {"local": "local", "slurm": "slurm", "kubernetes": "kubernetes"}
ALIASES = {"k8s": "kubernetes"}


class Scheduler(Protocol):
    """As PEP 544 has it, `self` is ignored when a module is the implementation."""

    def render(self, plan: Plan) -> Files:
        """The files to submit. Pure. Raises PlanError when this scheduler cannot run the plan."""

    def submit(self, plan: Plan, files: Files) -> str:
        """Send `files`, already written to the plan's folder. Returns the scheduler's own id.

        Raises SubmitError with the scheduler's words, ToolMissingError when it is not here.
        """

    def status(self, run: Run) -> Status:
        """The run's status now. Never raises for an unknown state: that is UNKNOWN, with the word in `reason`."""

    def logs(self, run: Run, selection: Selection) -> Iterator[str]:
        """Log lines, without line ends. With `follow` until the run ends."""

    def cancel(self, run: Run) -> None:
        """End the run. Raises SubmitError when the scheduler refuses."""


def load(name: str) -> Scheduler:
    """The scheduler called `name`. Raises SpecError for one that is not in SCHEDULERS."""
    if name not in SCHEDULERS:  # the run of a newer version
        raise SpecError(f"unknown scheduler {name!r}", hint=did_you_mean(name, SCHEDULERS))
    return cast("Scheduler", importlib.import_module(f"launcher.schedulers.{SCHEDULERS[name]}"))


def warnings(name: str, plan: Plan) -> list[Problem]:
    """What the scheduler called `name` has to say before it gets `plan`; most have nothing."""
    ask = getattr(load(name), "warnings", None)
    return list(ask(plan)) if ask else []


def statuses(runs: Sequence[Run]) -> list[Status]:
    """The status of each run, in the order given. A scheduler that has `statuses` is asked once for all of its runs.

    One that does not answer makes its runs UNKNOWN, with the reason; a run that was not submitted yet is PENDING.
    """
    known = {run.id: Status("PENDING", "not submitted") for run in runs if not run.native_id}
    submitted = [run for run in runs if run.native_id]
    for name in dict.fromkeys(run.scheduler for run in submitted):
        mine = [run for run in submitted if run.scheduler == name]
        try:
            scheduler = load(name)
            together = getattr(scheduler, "statuses", None)
            known |= together(mine) if together else {run.id: scheduler.status(run) for run in mine}
        except LauncherError as error:
            known |= {run.id: Status("UNKNOWN", error.problems[0].message) for run in mine}
    return [known[run.id] for run in runs]


def resume(run: Run, exclude: Sequence[str], after: Sequence[str] = ()) -> str:
    """Submit a run's own files, for the first time or again. Returns the new native id.

    `exclude`: hosts to avoid. `after`: what must succeed first, as `placement.dependency` names it. Raises SubmitError
    when that cannot be.
    """
    resume_in_place = getattr(load(run.scheduler), "resume", None)
    if resume_in_place is None:
        raise SubmitError(
            f"{run.scheduler} cannot resume a run in place",
            hint=f"submit its job again with --set checkpoint.resume={run.id}",
        )
    return str(resume_in_place(run, exclude, after))


def shell(run: Run, plan: Plan, selection: Selection, terminal: bool) -> list[str]:
    """The command that becomes a shell beside a rank of `run`, which has `plan` and runs.

    `terminal`: whether there is one. Raises RunNotFoundError without such a rank or host, SubmitError where the
    scheduler has no such thing.
    """
    beside = getattr(load(run.scheduler), "shell", None)
    if beside is None:
        raise SubmitError(f"{run.scheduler} cannot start a shell beside a rank")
    return list(beside(run, plan, selection, terminal))


@contextlib.contextmanager
def sender(run: Run, plan: Plan, path: str, say: Callable[[str], None]) -> Iterator[Line]:
    """A line to the program that sends files of `path` in the folder of `run`, which has `plan`: docker/sender.py.

    `say` is told what takes long. Raises SubmitError where the folder is gone or the scheduler refuses.
    """
    own = getattr(load(run.scheduler), "sender", None)
    if own is None:  # its folder is on a file system of this machine
        from launcher.schedulers import child, inside

        words, text = inside.sender(str(run.folder), path)
        with child.Child([sys.executable, *words]) as line:
            line.write(text)
            yield line
        return
    with own(run, plan, path, say) as line:
        yield line


if TYPE_CHECKING:  # the type checker compares each module with the protocol
    from launcher.schedulers import kubernetes, local, slurm

    _all: list[Scheduler] = [kubernetes, local, slurm]

"""Plan to run: a folder of its own, the rendered files in it, the scheduler's answer, and the record.

Owns the order, so that nothing is half-written: a run that was refused leaves no folder behind.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import atomic, schedulers, workloads
from launcher.errors import (
    BusyRunError,
    LauncherError,
    Problem,
    RunNotFoundError,
    SubmitError,
    UnnamedJobError,
    shown,
)
from launcher.runs import folders, lock, reading, record, sweeps
from launcher.submission import programs, snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.schedulers import Scheduler


def prepare(scheduler: Scheduler, name: str, plan: Plan) -> Plan:
    """`plan` with a folder of its own and its files in it. Raises what rendering raises, with nothing left behind."""
    files = scheduler.render(plan)  # what cannot be rendered needs no folder
    if name != "kubernetes":
        _check_resume(plan)
    reserved = record.reserve(plan)
    try:
        record.prepare(reserved, files if reserved.id == plan.id else scheduler.render(reserved))
        snapshot.write(reserved, name)
        lock.write(reserved, name, programs.of(reserved, name))
    except BaseException:
        record.abandon(reserved)
        raise
    return reserved


def submit(scheduler: Scheduler, name: str, plan: Plan) -> Run:
    """Submit a prepared plan, which may have got what it waits for since. Raises what the scheduler raises.

    A job that cannot be recorded, on a full disk say, is cancelled.
    """
    files = scheduler.render(plan)
    folders.write_files(Path(plan.folder), files)
    run = record.prepared(Path(plan.folder), name)
    native_id = scheduler.submit(plan, files)
    try:
        return record.record(run, native_id, time.time())
    except BaseException:
        scheduler.cancel(run._replace(native_id=native_id))
        raise


def start(name: str, plan: Plan) -> Run:
    """Prepare and submit a plan to the scheduler `name`. Raises what either raises, with nothing left behind."""
    scheduler = schedulers.load(name)
    prepared = prepare(scheduler, name, plan)
    try:
        return submit(scheduler, name, prepared)
    except BaseException as error:
        abandon_refused(prepared, error)
        raise


def abandon_refused(plan: Plan, error: BaseException) -> None:
    """Remove the folder of a plan that was refused with `error`; a job that may be in the queue keeps its own."""
    if not isinstance(error, UnnamedJobError):
        record.abandon(plan)


def resume(run: Run, exclude: Sequence[str], after: Sequence[str] = ()) -> Run:
    """Submit a run's own files again, or for the first time. It continues from its newest complete checkpoint.

    `after`: what must succeed first, as `placement.dependency` names it. Returns the run as it is now. Raises
    SubmitError while it runs, waits or is being resumed, and when it is done. A job that cannot be recorded is
    cancelled.
    """
    with folders.alone(run.folder) as is_ours:
        if not is_ours:
            hint = "look at it with `status`"
            raise BusyRunError(f"{run.id} is being submitted by another command", hint=hint)
        return _resume(record.current(run), exclude, after)


def _resume(run: Run, exclude: Sequence[str], after: Sequence[str]) -> Run:
    if run.native_id:
        _check_ended(run)
    try:
        paths = (p for p in (run.folder / "exit_code", run.folder / "cancelled") if p.exists())
        marks = {path: reading.content(path) for path in paths}
    except OSError as error:
        hint = "it is none of the launcher's: move it away"
        raise SubmitError(f"{run.id}: its exit code cannot be read: {error.strerror}", hint=hint) from None
    for path in marks:  # before it starts: a short run may end while we still look
        path.unlink()
    native_id = ""
    try:
        native_id = schedulers.resume(run, exclude, after)
        return record.record(run, native_id, time.time())
    except BaseException:
        try:
            if native_id:
                schedulers.load(run.scheduler).cancel(run._replace(native_id=native_id))
        finally:
            for path, content in marks.items():
                with contextlib.suppress(OSError):  # a full disk may be the reason
                    atomic.write(path, content)
        raise


def _check_ended(run: Run) -> None:
    now = schedulers.load(run.scheduler).status(run)
    if now.state in {"PENDING", "RUNNING"}:
        raise SubmitError(f"{run.id} is {now.state.lower()}", hint="there is nothing to resume")
    if now.state == "SUCCEEDED":
        raise SubmitError(
            f"{run.id} has succeeded", hint=f"train further with --set checkpoint.resume={run.id}"
        )


def sweep(name: str, plans: Sequence[Plan], points: Sequence[sweeps.Point]) -> sweeps.Sweep:
    """Submit `plans`, one for each of `points`: to Slurm as one array, else each by itself, and all or none.

    Returns the sweep, which is also recorded. Raises as `submit` does, and PlanError when the points differ in what an
    array's elements must share.
    """
    from launcher.schedulers import slurm

    on = schedulers.load(name)
    if name == "slurm":
        slurm.array("sweep", plans)
    prepared: list[Plan] = []
    submitted: list[Run] = []
    recorded: sweeps.Sweep | None = None
    try:
        for plan in plans:
            prepared.append(prepare(on, name, plan))
        ids = [plan.id for plan in prepared]
        recorded = sweeps.reserve(Path(plans[0].workspace.runs), plans[0].job.name, ids, points)
        if name == "slurm":
            _submit_array(recorded, prepared)
        else:
            for plan in prepared:
                submitted.append(submit(on, name, plan))
    except UnnamedJobError:  # its array may be in the queue, and needs its folders
        raise
    except BaseException as error:
        if recorded:
            sweeps.abandon(recorded)
        _withdraw(on, prepared, submitted, error)
        raise
    return recorded


def _submit_array(recorded: sweeps.Sweep, plans: Sequence[Plan]) -> None:
    """Submit a sweep as one array, and record its elements; an array that cannot be recorded is cancelled."""
    from launcher.schedulers import slurm

    native_id = slurm.submit_array(recorded, plans)
    try:
        for index, plan in enumerate(plans):
            record.record(record.prepared(Path(plan.folder), "slurm"), f"{native_id}_{index}", time.time())
    except BaseException:
        slurm.cancel_array(native_id)
        raise


def _withdraw(scheduler: Scheduler, plans: Sequence[Plan], runs: Sequence[Run], error: BaseException) -> None:
    """Cancel every one of `runs`, the last first, and remove the folders of `plans`, but for what cannot be cancelled.

    Raises SubmitError that names what stays, beside what `error` says.
    """
    stay = []
    for run in reversed(runs):
        try:
            scheduler.cancel(run)
        except LauncherError:
            stay.append(run.id)
    for plan in plans:
        if plan.id not in stay:
            record.abandon(plan)
    if stay and isinstance(error, LauncherError):
        what = f"submitted before, and not cancelled: {', '.join(stay)}"
        hint = "cancel each with `python -m launcher cancel RUN`"
        raise SubmitError(*error.problems, Problem(what, hint)) from error


def _check_resume(plan: Plan) -> None:
    named, about = plan.job.checkpoint.resume, ("job", "checkpoint", "resume")
    if named is None:
        return
    folder = Path(named) if "/" in named else Path(plan.workspace.runs) / named / "checkpoints"
    try:
        there = folder.is_dir()
        # the mark of a whole one, and what ds_to_universal leaves: docker/workloads/checkpoints.py
        whole = there and ((folder / "latest_universal").exists() or any(folder.glob("*/complete.json")))
    except OSError as error:
        what = f"checkpoint.resume: {shown(named)} cannot be read: {error.strerror}"
        raise RunNotFoundError(Problem(what, about=about)).at(plan.places) from None
    if whole or (there and workloads.is_script(plan.job.workload)):
        return
    what, hint = "does not exist", "name a run of `launcher list`, or a folder"
    if there:
        what, hint = "has no complete checkpoint", "name the folder of a run's checkpoints"
    problem = Problem(f"checkpoint.resume: {folder} {what}", hint, about=about)
    raise RunNotFoundError(problem).at(plan.places)

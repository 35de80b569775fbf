"""A pipeline's runs: submitted so that each waits for those it needs, and asked, cancelled and resumed as one.

Owns the order. The stages are ordinary runs, all of them recorded before the first is submitted; the waiting is their
scheduler's, or on Kubernetes this process's. A job is a pipeline of one stage, and its run the pipeline's only one.
"""

from __future__ import annotations

import shutil
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import schedulers, workloads
from launcher.errors import (
    BusyRunError,
    LauncherError,
    PlanError,
    Problem,
    SpecError,
    SubmitError,
    UnnamedJobError,
)
from launcher.runs import folders, pipelines, record, status
from launcher.runs.pipelines import PipelineRun
from launcher.runs.status import Status
from launcher.submission import leaders, placement, submit, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.files.stages import Stage, Stages
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run

    PlanOf = Callable[[Stage, dict[str, str]], Plan]  # a stage, with the run folders of those before it
    Follow = Callable[[str, Run], bool]  # a stage and its run; whether it has succeeded

_WORST_FIRST = ("FAILED", "CANCELLED", "UNKNOWN", "RUNNING", "PENDING", "SUCCEEDED")


def plan_all(stages: Stages, plan_of: PlanOf, scheduler: str) -> dict[str, Plan]:
    """Stage → its plan, as far as that is known before anything is submitted.

    Raises the problems of all stages at once, as a SpecError if one of them is.
    """
    plans: dict[str, Plan] = {}
    seen: dict[str, str] = {}
    errors: list[LauncherError] = []
    for stage in stages.stages:
        seen[stage.name] = f"/runs/{stage.name}"  # for what is wrong with those after one that has no plan
        try:
            plan = plans[stage.name] = plan_of(stage, seen)
        except LauncherError as error:
            errors.append(error)
            continue
        seen[stage.name] = _seen(scheduler, plan)
        if scheduler == "kubernetes" and stage.needs and plan.cluster.kubernetes.runs is None:
            hint = "name a PersistentVolumeClaim in the cluster file: kubernetes: {runs: CLAIM}"
            what = f"stage {stage.name} reads what an earlier one left, and run folders end with their pods"
            errors.append(PlanError(Problem(what, hint, stage.place)))
        if endless := _endless(stage, plans, scheduler):
            hint = f"make {endless} the last stage, or a job of its own"
            what = f"stage {stage.name} would wait for {endless}, which serves until it is cancelled"
            errors.append(PlanError(Problem(what, hint, stage.place)))
    if errors:
        worst = next((error for error in errors if isinstance(error, SpecError)), errors[0])
        # what is wrong with a file that stages share is one problem
        raise type(worst)(*dict.fromkeys(problem for error in errors for problem in error.problems))
    return plans


def _endless(stage: Stage, plans: Mapping[str, Plan], scheduler: str) -> str:
    """The stage, of those that `stage` waits for, that never ends by itself; '' for none."""
    before = takewhile(lambda name: name != stage.name, plans)
    # on Kubernetes each waits for the one before
    return next(
        (
            name
            for name in before
            if _serves(plans[name]) and (scheduler == "kubernetes" or name in stage.needs)
        ),
        "",
    )


def _serves(plan: Plan) -> bool:
    return not workloads.is_script(plan.job.workload) and workloads.traits(plan.job.workload).serves


def _seen(scheduler: str, plan: Plan) -> str:
    """A run's folder as the ranks of another run see it."""
    if scheduler != "kubernetes":
        return plan.folder
    from launcher.schedulers.kubernetes import pods

    return f"{pods.FOLDER}/{plan.id}"


def prepare(
    stages: Stages, plan_of: PlanOf, scheduler: str, after: Sequence[str]
) -> tuple[PipelineRun, dict[str, Plan]]:
    """Make the run folder of every stage, with its files, and the record of them all. Nothing is submitted.

    `after`: what must succeed before stages that need no other. Raises what planning and rendering raise, with nothing
    left behind.
    """
    on, seen, plans = schedulers.load(scheduler), dict[str, str](), dict[str, "Plan"]()
    home: Path | None = None
    try:
        for stage in stages.stages:
            waits = tuple(plans[name].folder for name in stage.needs) if scheduler == "local" else ()
            plan = plan_of(stage, seen)._replace(after=waits or tuple(after))
            plans[stage.name] = submit.prepare(on, scheduler, plan)
            seen[stage.name] = _seen(scheduler, plans[stage.name])
        runs = {name: record.prepared(Path(plan.folder), scheduler) for name, plan in plans.items()}
        needs = {stage.name: stage.needs for stage in stages.stages}
        led = tuple(after) if scheduler == "kubernetes" else ()  # elsewhere the scheduler waits
        if not stages.name and not led:
            return PipelineRun(runs[""].id, runs, needs), plans
        first = plans[stages.stages[0].name]
        if not stages.name:  # a job that waits is recorded as a pipeline of its own
            name = first.job.name
            runs, needs, plans = {name: runs[""]}, {name: ()}, {name: first}
        home = folders.make_next(Path(first.workspace.runs), f"{stages.name or first.job.name}-pipeline")
        pipeline = PipelineRun(home.name, runs, needs, led)
        pipelines.write(home, scheduler, pipeline)
    except BaseException:
        _abandon(plans, home)
        raise
    return pipeline, plans


def hand_over(pipeline: PipelineRun, plans: Mapping[str, Plan]) -> PipelineRun:
    """Have a pod of the cluster submit the prepared stages. Returns the pipeline as it is recorded now.

    Raises what submitting raises, with nothing left behind.
    """
    try:
        return leaders.hand_over(pipeline, plans)
    except BaseException:
        _abandon(plans, Path(next(iter(plans.values())).workspace.runs) / pipeline.id)
        raise


def _abandon(plans: Mapping[str, Plan], home: Path | None) -> None:
    for plan in plans.values():
        record.abandon(plan)
    if home:
        shutil.rmtree(home, ignore_errors=True)


def submit_all(pipeline: PipelineRun, plans: Mapping[str, Plan], scheduler: str) -> PipelineRun:
    """Submit every prepared stage, each after those it needs. Returns the pipeline with its runs.

    Raises what submitting raises, with what was submitted cancelled and the other stages' folders removed.
    """
    on, submitted = schedulers.load(scheduler), dict[str, "Run"]()
    try:
        for name, plan in plans.items():
            waits = tuple(placement.dependency(submitted[need]) for need in pipeline.needs[name])
            submitted[name] = submit.submit(on, scheduler, plan._replace(after=waits or plan.after))
    except BaseException as error:
        for run in reversed(submitted.values()):
            on.cancel(run)
        home = None if pipeline.is_plain else Path(next(iter(plans.values())).workspace.runs) / pipeline.id
        kept = {*submitted, name} if isinstance(error, UnnamedJobError) else {*submitted}
        _abandon({name: plan for name, plan in plans.items() if name not in kept}, home)
        raise
    return pipeline._replace(runs=submitted)


def lead(pipeline: PipelineRun, follow: Follow, exclude: Sequence[str] = (), *, again: bool = False) -> bool:
    """Submit the stages to a scheduler without dependencies: each when the one before has succeeded.

    Stages that have succeeded are passed over, those that failed are resumed, off the hosts `exclude`. What the first
    stage waits for is followed as a stage without a name. Returns whether all have succeeded. Raises SubmitError; of a
    pipeline that is not led `again` nothing is left where its first stage is refused.
    """
    if not pipeline.present:
        stage = next(iter(pipeline.runs))
        raise SubmitError(f"stage {stage}: its run folder cannot be read", hint="submit the pipeline again")
    waiting.want(pipeline)
    if not waiting.is_over(pipeline, lambda run: follow("", run)):
        return False
    for name, now in statuses(pipeline).items():
        run = pipeline.runs[name]
        if now.state == "SUCCEEDED":
            continue
        if run is None:
            raise SubmitError(f"stage {name}: {now.reason}", hint="submit the pipeline again")
        if not run.native_id or now.state in status.ENDED:
            waiting.require_wanted(pipeline)
            run = submit.resume(run, exclude) if again else _begin(pipeline, run, exclude)
            pipeline = pipeline._replace(runs={**pipeline.runs, name: run})
            _withdraw_unwanted(pipeline, run)
        if not follow(name, run):
            return False
    return True


def _begin(pipeline: PipelineRun, run: Run, exclude: Sequence[str]) -> Run:
    try:
        return submit.resume(run, exclude)
    except BusyRunError:
        raise
    except BaseException:
        # a pipeline that was refused leaves nothing, but for one that has waited
        if not pipeline.after and not any(record.current(other).native_id for other in pipeline.present):
            for other in pipeline.present:
                shutil.rmtree(other.folder, ignore_errors=True)
            if not pipeline.is_plain:
                shutil.rmtree(run.folder.parent / pipeline.id, ignore_errors=True)
        raise


def _withdraw_unwanted(pipeline: PipelineRun, run: Run) -> None:
    """Raise SubmitError, with `run` cancelled, where `cancel` looked before it was recorded."""
    try:
        waiting.require_wanted(pipeline)
    except SubmitError:
        schedulers.load(run.scheduler).cancel(run)
        raise


def statuses(pipeline: PipelineRun) -> dict[str, Status]:
    """Stage → the status of its run."""
    known = dict(
        zip((run.id for run in pipeline.present), schedulers.statuses(pipeline.present), strict=True)
    )
    result: dict[str, Status] = {}
    for name, run in pipeline.runs.items():
        result[name] = known[run.id] if run else Status("UNKNOWN", "its run folder cannot be read")
        if run and not run.native_id and any(now.state in {"FAILED", "CANCELLED"} for now in result.values()):
            result[name] = Status("CANCELLED", "not submitted: an earlier stage did not succeed")
        elif run and not run.native_id and waiting.is_cancelled(pipeline):
            result[name] = Status("CANCELLED", "cancelled before it was submitted")
        elif waiting.is_waiting(pipeline):
            result[name] = waiting.status(pipeline)
    return result | (leaders.unsubmitted(pipeline, result) if pipeline.leader else {})


def state(known: Mapping[str, Status]) -> str:
    """The pipeline's state: that of the stage that decides."""
    states = {now.state for now in known.values()}
    return next(word for word in _WORST_FIRST if word in states)


def as_data(pipeline: PipelineRun) -> dict[str, Any]:
    """The pipeline as JSON: id, state, and stages with stage, run, state, reason, exit_code."""
    known = statuses(pipeline)
    stages = [
        {
            "stage": name,
            "run": run.id if run else None,
            "state": known[name].state,
            "reason": known[name].reason,
            "exit_code": known[name].exit_code,
        }
        for name, run in pipeline.runs.items()
    ]
    return {"id": pipeline.id, "state": state(known), "stages": stages}


def current(pipeline: PipelineRun) -> Run:
    """The run of the first stage that has not succeeded, or of the last one. Raises SubmitError when there is none."""
    if len(pipeline.present) == 1:
        return pipeline.present[0]
    known = statuses(pipeline)
    left = [run for name, run in pipeline.runs.items() if run and known[name].state != "SUCCEEDED"]
    if not pipeline.present:
        raise SubmitError(f"{pipeline.id}: none of its run folders can be read")
    return left[0] if left else pipeline.present[-1]


def cancel(pipeline: PipelineRun) -> None:
    """End every stage, the last one first, so that none starts because another is gone."""
    pipeline = leaders.stopped(pipeline)
    if any(not run.native_id for run in pipeline.present) and not pipeline.leader:
        waiting.cancel(pipeline)
        pipeline = pipeline._replace(
            runs={name: run and record.current(run) for name, run in pipeline.runs.items()}
        )
    known = statuses(pipeline)
    for name, run in reversed(list(pipeline.runs.items())):
        if run and run.native_id and (pipeline.is_plain or known[name].state not in status.ENDED):
            schedulers.load(run.scheduler).cancel(run)


def resume(pipeline: PipelineRun, exclude: Sequence[str], now: bool = False) -> list[Run]:
    """Resume every stage that ended without success or was not submitted, each after those it needs.

    What else it was submitted after it waits for, unless `now`. Returns their runs. Raises SubmitError without any.
    """
    known, resumed = statuses(pipeline), dict[str, "Run"]()
    for name, run in pipeline.runs.items():
        over = known[name].state in {"FAILED", "CANCELLED", "UNKNOWN"} or (run and not run.native_id)
        left = [need for need in pipeline.needs[name] if known[need].state != "SUCCEEDED"]
        if run and known[name].state == "PENDING" and run.scheduler == "slurm" and {*left} & {*resumed}:
            schedulers.load(run.scheduler).cancel(run)  # Slurm is about to: it waits for a job that has ended
            over = True
        if run and (over or pipeline.is_plain):
            waits = [_dependency(pipeline, resumed, need) for need in left]
            waits = waits if waits or now else placement.still_before(run)
            resumed[name] = submit.resume(run, exclude, waits)
    if not resumed:
        raise SubmitError(f"{pipeline.id} is {state(known).lower()}", hint="there is nothing to resume")
    return list(resumed.values())


def require_unfinished(pipeline: PipelineRun) -> None:
    """Raise SubmitError when every stage has succeeded."""
    known = statuses(pipeline)
    if state(known) == "SUCCEEDED":
        raise SubmitError(f"{pipeline.id} has succeeded", hint="there is nothing to resume")


def _dependency(pipeline: PipelineRun, resumed: Mapping[str, Run], stage: str) -> str:
    run = resumed.get(stage) or pipeline.runs[stage]
    if run is None:
        raise SubmitError(
            f"the run folder of stage {stage} cannot be read, and a later stage needs it",
            hint="submit the pipeline again",
        )
    return placement.dependency(run)

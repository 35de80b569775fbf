"""A tuning run: which candidates the plan lets try, and all that its hosts and its report need of them.

Pure. Owns the pruning before the run; the decisions inside of it are docker/halving.py's, and what becomes of the
results is reports/tuning.py's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.errors import LauncherError, PlanError, Problem
from launcher.files.job import Profile
from launcher.namedtuple import NamedTuple
from launcher.planning import elastic, fit
from launcher.planning import plan as plans
from launcher.planning import space as spaces
from launcher.planning.tuning_record import Entry, LeftOut, Tuning
from launcher.sizing import ladder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.files.load import Loaded
    from launcher.planning.plan import Plan, Workspace
    from launcher.planning.space import Candidate, Changes, Space

SUFFIX = "tune"
# Of the options of workloads: those that a trial has not, and those that it has with another value.
_LEFT_OUT = ("max-steps", "epochs", "wandb", "mlflow")
_OFF: dict[str, Any] = {
    "log-every": 1,
    "eval-every": 0,
    "verify-every": 0,
    "digests": False,
    "export": False,
    "merge": False,
    "tensorboard": False,
}
_SAID = 12  # candidates that a refusal names


class Wishes(NamedTuple):
    """What the command line says: values by key, steps, seconds, the most candidates that are tried."""

    space: Space
    steps: int
    limit: int
    most: int
    settings: Changes = {}  # noqa: RUF012 - never changed


def make(loaded: Loaded, site: Workspace, suffix: str, wishes: Wishes) -> Plan:
    """The plan of a tuning run of the job, with its `tuning`.

    Raises PlanError for a job that cannot be tuned, and where no candidate is left, with why.
    """
    _require(loaded)
    # on one number of hosts; a profile takes time in a step
    job = dataclasses.replace(elastic.at_most(loaded.job, loaded.cluster), profile=Profile())
    loaded = loaded._replace(job=job)
    try:
        train = spaces.train_size(loaded.job, loaded.cluster)
        found = spaces.candidates(loaded.job, loaded.cluster, wishes.space)
    except LauncherError as error:
        raise error.at(loaded.places) from None
    name = "-".join(filter(None, (suffix, SUFFIX)))
    possible, left_out = list[tuple["Candidate", "Plan"]](), list[LeftOut]()
    errors = list[LauncherError]()
    for candidate in found:
        job = spaces.applied(candidate, loaded.job, train)
        try:
            plan = plans.make(loaded._replace(job=job), site, name)
        except LauncherError as error:
            errors.append(error)
            left_out.append(LeftOut(candidate.name, error.problems[0].message))
            continue
        if plan.estimate and not plan.estimate.fits:
            why = "; ".join(plan.estimate.evaluation.shortfalls)
            left_out.append(LeftOut(candidate.name, why, fits=False, **_figures(plan)))
        else:
            possible.append((candidate, plan))
    if not possible:
        raise _nothing_left(left_out, [] if wishes.space else errors).at(loaded.places)
    # what does less comes before what it spares; else the ladder's order
    possible.sort(key=lambda pair: (_cost(pair[1]), len(pair[0].less)))
    why = f"more than --most {wishes.most}, and not before those by the plan"
    left_out += [LeftOut(c.name, why, fits=True, **_figures(p)) for c, p in possible[wishes.most :]]
    numbers = {candidate: number for number, (candidate, _) in enumerate(possible[: wishes.most])}
    entries = [
        _entry(c, p, loaded, wishes)._replace(less=sorted(numbers[o] for o in c.less if o in numbers))
        for c, p in possible[: wishes.most]
    ]
    tuning = Tuning(wishes.steps, wishes.limit, tuple(entries), tuple(left_out))
    return possible[0][1]._replace(tuning=tuning)


def _require(loaded: Loaded) -> None:
    """Raise PlanError for a job whose steps a tuning run cannot time."""
    job = loaded.job
    hint = "tune a job of pretrain, finetune or chat's sft, reward and dpo"
    if workloads.is_script(job.workload):
        what = "tune cannot set the configuration and the steps of a program of one's own"
        raise PlanError(Problem(what, hint, about=("job", "workload"))).at(loaded.places)
    does = workloads.traits(job.workload).learning
    if does is None or does.sampled or not workloads.saves(job.workload):
        why = "its steps depend on sampled answers" if does else "it trains nothing in steps"
        what = f"workload {job.workload!r} cannot be tuned: {why}"
        raise PlanError(Problem(what, hint, about=("job", "workload"))).at(loaded.places)
    if job.checkpoint.resume is not None:
        what = "checkpoint.resume: a trial starts from the beginning, and saves nothing"
        hint = "leave it out, or --set checkpoint.resume=null"
        raise PlanError(Problem(what, hint, about=("job", "checkpoint", "resume"))).at(loaded.places)


def _figures(plan: Plan) -> dict[str, Any]:
    """Bytes of a rank, those that it may have, and the least seconds of a step; None for what is not known."""
    found = plan.estimate
    return {
        "memory": found.evaluation.memory.slot.total if found else None,
        "capacity": found.machine.slot_memory if found else None,
        "bound": found.bound.step if found and found.bound else None,
    }


def _cost(plan: Plan) -> float:
    """Seconds to sort by; the bound flatters stage 3, which gathers from Python hooks."""
    third = plan.config["zero_optimization"].get("stage") == 3
    return float(f"{(_figures(plan)['bound'] or 0.0) * (ladder.STAGE_3 if third else 1.0):.2e}")


def _entry(candidate: Candidate, plan: Plan, loaded: Loaded, wishes: Wishes) -> Entry:
    world = fit.data_parallel_size(loaded.job, loaded.cluster)
    changed = spaces.changes(candidate, loaded.job, plan.batch.train, world)
    return Entry(
        name=candidate.name,
        group=candidate.group,
        micro=candidate.micro,
        config=plan.config,
        args=trial_args(plan.job.workload, plan.args),
        changes=[(list(path), value) for path, value in {**wishes.settings, **changed}.items()],
        **_figures(plan),
    )


def trial_args(workload: str, args: dict[str, Any]) -> dict[str, Any]:
    """The options of a trial: each step is logged, nothing is evaluated, exported or sent elsewhere."""
    kept = {key: value for key, value in args.items() if key not in _LEFT_OUT}
    return kept | {key: value for key, value in _OFF.items() if workloads.takes(workload, key)}


def _nothing_left(left_out: Sequence[LeftOut], errors: Sequence[LauncherError]) -> PlanError:
    """Why no candidate is left. What is wrong with all of them is wrong with the job."""
    said = {str(error) for error in errors}
    if len(errors) == len(left_out) and len(said) == 1:
        return PlanError(*errors[0].problems)
    lines = [f"  {entry.name}: {entry.why}" for entry in left_out[:_SAID]]
    if len(left_out) > _SAID:
        lines.append(f"  and {len(left_out) - _SAID} more")
    what = f"none of {len(left_out)} candidates can be tried:\n" + "\n".join(lines)
    return PlanError(Problem(what, "other values by --space, more hosts, or a smaller model"))


def job_settings(settings: Sequence[Any]) -> Changes:
    """Those of the words of `--set` that change the job file."""
    return {s.keys: s.value for s in settings if not (s.keys[0] == "cluster" and len(s.keys) > 1)}


def with_job(plan: Plan, text: str, folder: str) -> Plan:
    """The same with the text of the job file, which the result is written from, and the folder where that lies."""
    assert plan.tuning
    return plan._replace(tuning=plan.tuning._replace(job=text, folder=folder))

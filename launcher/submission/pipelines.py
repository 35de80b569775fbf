"""A pipeline's runs: submitted so that each waits for those it needs, and asked, cancelled and resumed as one.

Owns `<runs>/<id>/pipeline.json`; the stages are ordinary runs, and the waiting is their scheduler's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import schedulers
from launcher.errors import PlanError, RunNotFoundError, SubmitError
from launcher.planning import workspace
from launcher.runs import record, status
from launcher.submission import placement, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from launcher.files.pipeline import Pipeline, Stage
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.status import Status

    PlanOf = Callable[[Stage, dict[str, str]], Plan]  # a stage, with the run folders of those before it

_RECORD = "pipeline.json"
_WORST_FIRST = ("FAILED", "CANCELLED", "UNKNOWN", "RUNNING", "PENDING", "SUCCEEDED")


class Chain(NamedTuple):
    """A submitted pipeline: stage → its run, in order, and the stages that each needs."""

    id: str
    runs: dict[str, Run]
    needs: dict[str, tuple[str, ...]]


def rehearse(pipeline: Pipeline, plan_of: PlanOf, scheduler: str, led: bool = True) -> dict[str, Plan]:
    """Stage → its plan, as far as it can be told before anything is submitted. `led`: somebody waits beside it.

    Raises what planning raises, and PlanError where runs cannot wait for each other, or read what another left.
    """
    if scheduler == "kubernetes" and len(pipeline.stages) > 1 and not led:
        raise PlanError(
            "Kubernetes has no jobs that wait for each other",
            hint="add --wait: each stage is then submitted when the one before has succeeded",
        )
    made: dict[str, Plan] = {}
    for stage in pipeline.stages:
        folders = {name: _seen(scheduler, plan.id, plan.folder) for name, plan in made.items()}
        plan = made[stage.name] = plan_of(stage, folders)
        if scheduler == "kubernetes" and stage.needs and plan.cluster.kubernetes.runs is None:
            raise PlanError(
                f"stage {stage.name} reads what an earlier one left, and run folders end with their pods",
                hint="name a PersistentVolumeClaim in the cluster file: kubernetes: {runs: CLAIM}",
            )
    return made


def _seen(scheduler: str, run: str, folder: str) -> str:
    """A run's folder as the ranks of another run see it."""
    if scheduler != "kubernetes":
        return folder
    from launcher.schedulers.kubernetes import pods

    return f"{pods.FOLDER}/{run}"


def send(pipeline: Pipeline, plan_of: PlanOf, scheduler: str, after: Sequence[str]) -> Chain:
    """Submit every stage; those that need none start after the runs that `after` names (`placement.jobs`).

    Raises what submitting raises, with what was submitted cancelled.
    """
    on, sent = schedulers.load(scheduler), dict[str, "Run"]()
    try:
        for stage in pipeline.stages:
            plan = plan_of(stage, {name: str(run.folder) for name, run in sent.items()})
            waits = tuple(placement.word(sent[name]) for name in stage.needs) or tuple(after)
            sent[stage.name] = submit.submit(on, scheduler, plan._replace(after=waits))
        return _record(pipeline, sent)
    except BaseException:
        for run in reversed(sent.values()):
            on.cancel(run)
        raise


def lead(pipeline: Pipeline, plan_of: PlanOf, follow: Callable[[str, Run], bool]) -> bool:
    """Submit a stage to Kubernetes, `follow` it to its end, submit the next. Returns whether all succeeded."""
    on, sent, chain = schedulers.load("kubernetes"), dict[str, "Run"](), ""
    for stage in pipeline.stages:
        folders = {name: _seen("kubernetes", run.id, str(run.folder)) for name, run in sent.items()}
        sent[stage.name] = submit.submit(on, "kubernetes", plan_of(stage, folders))
        chain = _record(pipeline, sent, chain).id
        if not follow(stage.name, sent[stage.name]):
            return False
    return True


def named(name: str) -> Chain | None:
    """The pipeline whose id is `name`, or starts with it while no run's does; None if there is none.

    Raises RunNotFoundError when there are several.
    """
    folder = workspace.runs()
    every = sorted(path.parent.name for path in folder.glob(f"*/{_RECORD}")) if name else []
    if name in every:
        return _read(folder, name)
    matches = [other for other in every if other.startswith(name)]
    if not matches or any(run.id.startswith(name) for run in record.listed(folder)):
        return None
    if len(matches) > 1:
        raise RunNotFoundError(f"{name!r} starts {len(matches)} pipelines", hint=", ".join(matches[:5]))
    return _read(folder, matches[0])


def statuses(chain: Chain) -> dict[str, Status]:
    """Stage → how its run is."""
    found = schedulers.statuses(list(chain.runs.values()))
    return dict(zip(chain.runs, found, strict=True))


def state(found: dict[str, Status]) -> str:
    """The pipeline's state: that of the stage that decides."""
    states = {now.state for now in found.values()}
    return next(word for word in _WORST_FIRST if word in states)


def as_data(chain: Chain) -> dict[str, Any]:
    """The pipeline for a program: id, state, and stages with stage, run, state, reason, exit_code."""
    found = statuses(chain)
    stages = [
        {
            "stage": name,
            "run": chain.runs[name].id,
            "state": now.state,
            "reason": now.reason,
            "exit_code": now.exit_code,
        }
        for name, now in found.items()
    ]
    return {"id": chain.id, "state": state(found), "stages": stages}


def current(chain: Chain) -> Run:
    """The run of the first stage that has not succeeded, or of the last one."""
    left = [chain.runs[name] for name, now in statuses(chain).items() if now.state != "SUCCEEDED"]
    return left[0] if left else list(chain.runs.values())[-1]


def cancel(chain: Chain) -> None:
    """End every stage, the last one first, so that none starts because another is gone."""
    found = statuses(chain)
    for name, run in reversed(chain.runs.items()):
        if found[name].state not in status.ENDED:
            schedulers.load(run.scheduler).cancel(run)


def resume(chain: Chain, exclude: Sequence[str]) -> list[Run]:
    """Let every stage that ended without success go on, each after those it needs. Returns their runs.

    Raises SubmitError when there is none.
    """
    found, resumed = statuses(chain), dict[str, "Run"]()
    for name, run in chain.runs.items():
        if found[name].state in status.ENDED and found[name].state != "SUCCEEDED":
            left = [need for need in chain.needs[name] if found[need].state != "SUCCEEDED"]
            waits = [placement.word(resumed.get(need, chain.runs[need])) for need in left]
            resumed[name] = submit.resume(run, exclude, waits)
    if not resumed:
        raise SubmitError(f"{chain.id} is {state(found).lower()}", hint="there is nothing to resume")
    return list(resumed.values())


def _record(pipeline: Pipeline, sent: dict[str, Run], name: str = "") -> Chain:
    """Write down the stages that were submitted, in a folder of their own or in that of `name`."""
    folder, number = workspace.runs(), 1
    made = folder / name
    while not name:
        made = folder / f"{pipeline.name}-pipeline-{number}"
        try:
            made.mkdir()
            break
        except FileExistsError:
            number += 1
    needs = {stage.name: stage.needs for stage in pipeline.stages if stage.name in sent}
    stages = [{"stage": name, "run": run.id, "needs": needs[name]} for name, run in sent.items()]
    record.write_files(made, {_RECORD: json.dumps({"id": made.name, "stages": stages}, indent=1) + "\n"})
    return Chain(made.name, sent, needs)


def _read(folder: Path, name: str) -> Chain:
    try:
        stages = json.loads((folder / name / _RECORD).read_text(encoding="utf-8"))["stages"]
        found = {str(entry["stage"]): record.find(folder, str(entry["run"])) for entry in stages}
        needs = {str(entry["stage"]): tuple(map(str, entry["needs"])) for entry in stages}
    except (OSError, ValueError, KeyError, TypeError):
        raise RunNotFoundError(f"{folder / name / _RECORD} cannot be read") from None
    return Chain(name, found, needs)

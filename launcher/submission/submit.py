"""Plan to run: a folder of its own, the rendered files in it, the scheduler's yes, and the record.

Owns the order, so that nothing is half-written: a run that was refused leaves no folder behind.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import schedulers
from launcher.errors import RunNotFoundError, SubmitError
from launcher.runs import record, sweeps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.schedulers import Scheduler


def submit(scheduler: Scheduler, name: str, plan: Plan) -> Run:
    """Submit `plan`. Raises what the scheduler's render and submit raise, with nothing left behind."""
    scheduler.render(plan)  # what cannot be rendered needs no folder
    if name != "kubernetes":
        _check_resume(plan)
    plan = record.reserve(plan)
    try:
        files = scheduler.render(plan)
        record.write_files(
            Path(plan.folder), {**files, "plan.json": json.dumps(facts(plan), indent=1) + "\n"}
        )
        native_id = scheduler.submit(plan, files)
    except BaseException:
        record.abandon(plan)
        raise
    return record.record(plan, name, native_id, time.time())


def resume(run: Run, exclude: Sequence[str], after: Sequence[str] = ()) -> Run:
    """Let an ended run go on in its own folder, from its newest complete checkpoint, once the runs `after` succeeded.

    Returns the run as it is now.

    Raises SubmitError while it runs or waits, or when it is done.
    """
    now = schedulers.load(run.scheduler).status(run)
    if now.state in {"PENDING", "RUNNING"}:
        raise SubmitError(f"{run.id} is {now.state.lower()}", hint="it goes on by itself")
    if now.state == "SUCCEEDED":
        raise SubmitError(f"{run.id} is done", hint=f"go further with --set checkpoint.resume={run.id}")
    marks = {p: p.read_bytes() for p in (run.folder / "exit_code", run.folder / "cancelled") if p.exists()}
    for path in marks:  # before it starts: a short run may end while we still look
        path.unlink()
    try:
        native_id = schedulers.resume(run, exclude, after)
    except BaseException:
        for path, content in marks.items():
            path.write_bytes(content)
        raise
    return record.resumed(run, native_id)


def sweep(plans: Sequence[Plan], points: Sequence[sweeps.Point]) -> sweeps.Sweep:
    """Submit `plans`, one for each of `points`, as one array of Slurm. Returns the sweep, which is also written down.

    Raises as `submit` does, and PlanError when the points differ in what the array's elements must share.
    """
    from launcher.schedulers import slurm

    kept: list[Plan] = []
    made: sweeps.Sweep | None = None
    for plan in plans:
        _check_resume(plan)
        slurm.render(plan)
    slurm.array("sweep", plans)
    try:
        for plan in plans:
            kept.append(record.reserve(plan))
        for plan in kept:
            files = slurm.render(plan)
            facts_text = json.dumps(facts(plan), indent=1) + "\n"
            record.write_files(Path(plan.folder), {**files, "plan.json": facts_text})
        made = sweeps.reserve(
            Path(plans[0].workspace.runs), plans[0].job.name, [plan.id for plan in kept], points
        )
        native_id = slurm.submit_array(made, kept)
    except BaseException:
        for plan in kept:
            record.abandon(plan)
        if made:
            sweeps.abandon(made)
        raise
    for index, plan in enumerate(kept):
        record.record(plan, "slurm", f"{native_id}_{index}", time.time())
    return made


def _check_resume(plan: Plan) -> None:
    named = plan.job.checkpoint.resume
    if named is None:
        return
    folder = Path(named) if "/" in named else Path(plan.workspace.runs) / named / "checkpoints"
    if not folder.is_dir():
        raise RunNotFoundError(
            f"checkpoint.resume: {folder} does not exist",
            hint="name a run of `python -m launcher list`, or a folder",
        )


def facts(plan: Plan) -> dict[str, Any]:
    """The plan as data, for `plan.json`: what was decided and from which files."""
    return {
        "id": plan.id,
        "job": plan.job.model_dump(mode="json", by_alias=True),
        "cluster": plan.cluster.model_dump(mode="json", by_alias=True),
        "image": plan.image,
        "batch": plan.batch._asdict(),
        "deepspeed": {"preset": plan.preset, "config": plan.config},
        "precision": plan.precision,
        "environment": [v._asdict() for v in plan.environment],
        "secrets": [s._asdict() for s in plan.secrets],
    }

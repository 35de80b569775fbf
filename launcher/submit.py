"""Plan to run: a folder of its own, the rendered files in it, the scheduler's yes, and the record.

Owns the order, so that nothing is half-written: a run that was refused leaves no folder behind.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import runs
from launcher.errors import RunNotFoundError

if TYPE_CHECKING:
    from launcher.plan import Plan
    from launcher.runs import Run
    from launcher.schedulers import Scheduler


def submit(scheduler: Scheduler, name: str, plan: Plan) -> Run:
    """Submit `plan`. Raises what the scheduler's render and submit raise, with nothing left behind."""
    scheduler.render(plan)  # what cannot be rendered needs no folder
    if name != "kubernetes":
        _check_resume(plan)
    plan = runs.reserve(plan)
    try:
        files = scheduler.render(plan)
        runs.write_files(Path(plan.folder), {**files, "plan.json": json.dumps(facts(plan), indent=1) + "\n"})
        native_id = scheduler.submit(plan, files)
    except BaseException:
        runs.abandon(plan)
        raise
    return runs.record(plan, name, native_id, time.time())


def _check_resume(plan: Plan) -> None:
    named = plan.job.checkpoint.resume
    if named is None:
        return
    folder = Path(named) if "/" in named else Path(plan.site.runs) / named / "checkpoints"
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
        "batch": dataclasses.asdict(plan.batch),
        "deepspeed": {"preset": plan.preset, "config": plan.config},
        "precision": plan.precision,
        "environment": [dataclasses.asdict(v) for v in plan.environment],
        "secrets": [dataclasses.asdict(s) for s in plan.secrets],
    }

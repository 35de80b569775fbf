"""Pipelines that a pod leads: handed over to it, and what it has submitted since, recorded as if submitted from here.

Owns the hand-over and the way back; the pod is schedulers/kubernetes/leader.py's.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import LauncherError
from launcher.runs import pipelines, record
from launcher.runs.status import ENDED, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.planning.plan import Plan
    from launcher.runs.pipelines import PipelineRun

_MANIFEST = "leader.yaml"


def _home(pipeline: PipelineRun) -> Path:
    return pipeline.present[0].folder.parent / pipeline.id


def hand_over(pipeline: PipelineRun, plans: Mapping[str, Plan]) -> PipelineRun:
    """Have a pod submit the prepared stages, one after the other. Returns the pipeline as it is recorded now.

    Raises SubmitError and PlanError, with nothing left in the cluster.
    """
    from launcher.schedulers.kubernetes import applying, leader

    texts = {
        stage: (run.folder / "manifest.yaml").read_text(encoding="utf-8")
        for stage, run in pipeline.runs.items()
        if run
    }
    after = [applying.place(record.read(Path(folder) / record.RECORD)) for folder in pipeline.after]
    text = leader.manifest(pipeline.id, plans, texts, after)
    (_home(pipeline) / _MANIFEST).write_text(text, encoding="utf-8")
    led = pipeline._replace(leader=leader.start(text, next(iter(plans.values())), texts.values(), after))
    try:
        pipelines.write(_home(led), "kubernetes", led)
    except BaseException:  # nobody would find it
        leader.stop(led.leader)
        raise
    return led


def adopted(pipeline: PipelineRun) -> PipelineRun:
    """The pipeline with the runs that its leader has submitted; as it is where nothing can be asked."""
    if not pipeline.leader:
        return pipeline
    from launcher.schedulers.kubernetes import leader

    runs = dict(pipeline.runs)
    for stage, run in runs.items():
        if run is None or run.native_id:
            continue
        try:
            native_id = leader.submitted(pipeline.leader, run)
        except (LauncherError, OSError):
            break
        if native_id is None:  # those after it wait for this one
            break
        runs[stage] = record.record(run, native_id, time.time())
    return pipeline._replace(runs=runs)


def stopped(pipeline: PipelineRun) -> PipelineRun:
    """The same once its leader submits nothing more, with all that it has submitted. Raises SubmitError."""
    if not pipeline.leader:
        return pipeline
    from launcher.schedulers.kubernetes import leader

    leader.stop(pipeline.leader)
    now = adopted(pipeline)
    if left := next((run for run in now.runs.values() if run and not run.native_id), None):
        leader.discard(pipeline.leader, left)  # of those after it nothing was made
    return now


def taken_back(pipeline: PipelineRun) -> PipelineRun:
    """The same, led by this process from now on, and recorded so. Raises SubmitError."""
    if not pipeline.leader:
        return pipeline
    own = stopped(pipeline)._replace(leader="")
    pipelines.write(_home(own), "kubernetes", own)
    return own


def unsubmitted(pipeline: PipelineRun, known: Mapping[str, Status]) -> dict[str, Status]:
    """Each stage that waits for its leader → how that is."""
    left = [
        n for n, run in pipeline.runs.items() if run and not run.native_id and known[n].state == "PENDING"
    ]
    if not left:
        return {}
    from launcher.schedulers.kubernetes import leader

    try:
        now = leader.status(pipeline.leader)
    except LauncherError as error:
        now = Status("UNKNOWN", error.problems[0].message)
    why = f": {now.reason}" if now.reason else ""
    if now.state in ENDED:
        what = f"not submitted: the pod that leads has ended{why}; `resume {pipeline.id}` goes on"
        return dict.fromkeys(left, Status("CANCELLED", what))
    if now.state == "RUNNING":
        return dict.fromkeys(
            left, Status("PENDING", "not submitted: a pod leads, and waits for what is before")
        )
    # PENDING, or UNKNOWN
    return dict.fromkeys(left, Status(now.state, f"not submitted: the pod that leads does not run{why}"))

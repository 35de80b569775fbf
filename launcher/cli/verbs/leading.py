"""Stages that wait for each other: followed to their end (--wait), on Kubernetes submitted by this command or a pod.

Owns what is said when the command ends before its stages do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import JOB_FAILED, OK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.pipelines import PipelineRun
    from launcher.runs.record import Run


def follow(pipeline: PipelineRun) -> int:
    """Follow the stages one after the other, to the end or to the first that did not succeed."""
    for name, run in pipeline.runs.items():
        if run and not _succeeds(name, run):
            return _ended(pipeline, name)
    return OK


def lead(pipeline: PipelineRun, exclude: Sequence[str] = (), *, again: bool = False) -> int:
    """Submit and follow one stage after the other, for a scheduler without dependencies. `again`: it is resumed."""
    from launcher.errors import SubmitError
    from launcher.submission import pipelines, waiting

    goes_on = f"`python -m launcher resume {pipeline.id}` continues it"
    say(f"{pipeline.id}: if this command ends early, {goes_on}")
    last = awaited = ""

    def succeeds(name: str, run: Run) -> bool:
        nonlocal last, awaited
        last, awaited = name, "" if name else run.id
        if awaited:
            say(f"{pipeline.id} waits for {awaited}")
        return _succeeds(name, run)

    try:
        if pipelines.lead(pipeline, succeeds, exclude, again=again):
            return OK
    except (KeyboardInterrupt, SubmitError):
        if waiting.is_recorded(pipeline):
            say(f"{pipeline.id}: nothing more is submitted until {goes_on} where it stands")
        raise
    if awaited:
        say(f"{pipeline.id} was not submitted: {awaited} has not succeeded; once it has, {goes_on}")
    return _ended(pipeline, last)


def hand_over(pipeline: PipelineRun, plans: Mapping[str, Plan]) -> int:
    """Have a pod submit one stage after the other, and leave."""
    from launcher.submission import pipelines

    led = pipelines.hand_over(pipeline, plans)
    say(
        f"{led.id}: led by {led.leader.partition(':')[0]}, which submits each stage when the one before has succeeded"
    )
    say(f"follow it with: python -m launcher status {led.id}")
    print(led.id)
    return OK


def _succeeds(stage: str, run: Run) -> bool:
    from launcher import schedulers
    from launcher.reports import progress

    if stage:
        say(f"stage {stage}: {run.id}")
    return progress.follow(run, schedulers.load(run.scheduler).status) == OK


def _ended(pipeline: PipelineRun, stage: str) -> int:
    if stage:
        say(
            f"{pipeline.id} stopped at stage {stage}; `python -m launcher resume {pipeline.id}` resumes it there"
        )
    return JOB_FAILED

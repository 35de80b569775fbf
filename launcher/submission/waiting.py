"""Stages that a command submits, each when what is before has succeeded: on Kubernetes, with --wait or --after.

Owns `<runs>/<id>/cancelled`, by which the command that leads learns that nobody wants the rest any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import SubmitError
from launcher.runs import record
from launcher.runs.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.runs.pipelines import PipelineRun
    from launcher.runs.record import Run


def is_waiting(pipeline: PipelineRun) -> bool:
    """Whether no stage was submitted, and other runs must succeed before."""
    return bool(pipeline.after and pipeline.present and not any(run.native_id for run in pipeline.present))


def is_over(pipeline: PipelineRun, succeeds: Callable[[Run], bool]) -> bool:
    """Wait, by `succeeds`, for what must be before, if there is anything. Returns whether all have succeeded.

    Raises RunNotFoundError for a run that is gone, SubmitError when the pipeline was cancelled meanwhile.
    """
    if not is_waiting(pipeline):
        return True
    for folder in pipeline.after:
        if not succeeds(record.read(Path(folder) / record.RECORD)):
            return False
    require_wanted(pipeline)
    return True


def status(pipeline: PipelineRun) -> Status:
    """The status of each stage of a pipeline that waits."""
    names = ", ".join(Path(folder).name for folder in pipeline.after)
    return Status(
        "PENDING", f"not submitted: waits for {names}; `resume {pipeline.id}` if nothing waits any more"
    )


def want(pipeline: PipelineRun) -> None:
    """Take back what `cancel` has said before."""
    _mark(pipeline).unlink(missing_ok=True)


def cancel(pipeline: PipelineRun) -> None:
    """Have the command that leads submit nothing more."""
    _mark(pipeline).touch()


def is_cancelled(pipeline: PipelineRun) -> bool:
    """Whether nothing more is submitted."""
    return _mark(pipeline).exists()


def require_wanted(pipeline: PipelineRun) -> None:
    """Raise SubmitError when the pipeline was cancelled."""
    if is_cancelled(pipeline):
        raise SubmitError(f"{pipeline.id} was cancelled: what was not submitted by then stays so")


def is_recorded(pipeline: PipelineRun) -> bool:
    """Whether it can be resumed: one whose first stage was refused leaves nothing."""
    return bool(pipeline.present) and _mark(pipeline).parent.is_dir()


def _mark(pipeline: PipelineRun) -> Path:
    return pipeline.present[0].folder.parent / pipeline.id / "cancelled"

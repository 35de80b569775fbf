"""A pipeline, or a job, that a command submits when other runs have succeeded: `--after` on Kubernetes.

Owns `<runs>/<id>/cancelled`, by which the command that waits learns that nobody wants it any more.
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
    _mark(pipeline).unlink(missing_ok=True)
    for folder in pipeline.after:
        if not succeeds(record.read(Path(folder) / record.RECORD)):
            return False
    if _mark(pipeline).exists():
        raise SubmitError(f"{pipeline.id} was cancelled before it was submitted")
    return True


def status(pipeline: PipelineRun) -> Status:
    """The status of each stage of a pipeline that waits."""
    if _mark(pipeline).exists():
        return Status("CANCELLED", "cancelled before it was submitted")
    names = ", ".join(Path(folder).name for folder in pipeline.after)
    return Status(
        "PENDING", f"not submitted: waits for {names}; `resume {pipeline.id}` if nothing waits any more"
    )


def cancel(pipeline: PipelineRun) -> None:
    """Have the command that waits submit nothing."""
    _mark(pipeline).touch()


def is_recorded(pipeline: PipelineRun) -> bool:
    """Whether it can be resumed: one whose first stage was refused leaves nothing."""
    return bool(pipeline.present) and _mark(pipeline).parent.is_dir()


def _mark(pipeline: PipelineRun) -> Path:
    return pipeline.present[0].folder.parent / pipeline.id / "cancelled"

"""Whether checkpoints can be written while training goes on, as `checkpoint.async` of a job asks.

Owns who can do it; the memory that it takes is sizing's (copies.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.errors import Problem, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from launcher.files.job import Job

_FIELD = ("job", "checkpoint", "async")


def problems(job: Job, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Why they cannot. `config` is DeepSpeed's configuration of the job."""
    if not job.checkpoint.async_:
        return
    if workloads.is_script(job.workload):
        what = "checkpoint.async: a program of your own writes its checkpoints itself"
        yield Problem(what, "leave it out", about=_FIELD)
    elif not workloads.saves(job.workload):
        what = f"checkpoint.async: workload {shown(job.workload)} writes no checkpoints"
        yield Problem(what, "leave it out", about=_FIELD)
    offloaded = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    if offloaded.get("device") == "nvme":
        # runtime/engine.py (save_checkpoint) copies the files of the swapped states before it returns
        what = "checkpoint.async: DeepSpeed copies an optimizer on NVMe itself, and training waits"
        yield Problem(what, "leave it out, or offload to the cpu", about=_FIELD)


def note(job: Job, estimated: bool) -> str:
    """What to say of copies whose size is not known; empty where it is, or there are none."""
    if estimated or not job.checkpoint.async_:
        return ""
    return "checkpoint.async: the copies in host memory are not estimated: as large as a host's part of a checkpoint"

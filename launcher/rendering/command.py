"""What Python runs in every rank.

Owns the options that follow from the plan; the workload's own are checked by `workloads`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.rendering import own_image

if TYPE_CHECKING:
    from launcher.planning.plan import Plan


def ranks(plan: Plan, folder: str, config: str, code: str = "") -> list[str]:
    """Python's arguments: `-m workloads.NAME` or the user's own file, then options.

    `folder` is the run folder, `config` the DeepSpeed configuration and `code` the folder of the user's code (default:
    below `folder`), all as the ranks see them.
    """
    job = plan.job
    if workloads.is_script(job.workload):
        own = plan.code and f"{code or f'{folder}/{own_image.CODE}'}/{plan.code.program}"
        return [own or job.workload, *workloads.command_line(plan.args)]
    ours = {
        "deepspeed-config": config,
        "run-dir": folder,
        "model": job.model,
        "checkpoint-every": job.checkpoint.every,
        "checkpoint-keep": job.checkpoint.keep,
        "resume": _resume(job.checkpoint.resume, folder.rpartition("/")[0]),
    }
    known = workloads.options(job.workload)
    made = workloads.command_line({k: v for k, v in ours.items() if k in known})
    return ["-m", f"workloads.{job.workload}", *made, *workloads.command_line(plan.args)]


def _resume(named: str | None, runs: str) -> str | None:
    """A run's id stands for its checkpoints folder; anything with a slash is a folder already."""
    return named if named is None or "/" in named else f"{runs}/{named}/checkpoints"

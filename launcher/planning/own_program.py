"""What a program of the user's own is given of the plan, as variables and as names in its words.

Owns their values; which names there are is docker/expansion.py's, and those of a host or rank are the node entry's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.errors import Problem
from launcher.planning import starters

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.job import Job
    from launcher.planning.plan import Plan

# From the walltime's end: what SIGTERM, ten seconds of grace and the way back into the queue take.
STOP = 30


def variables(plan: Plan, runs: str) -> dict[str, str]:
    """Variable → value; none for our own workloads, which have options. `runs`: the run folders as ranks see them.

    A variable of the same name in `env:` wins.
    """
    if not workloads.is_script(plan.job.workload):
        return {}
    kept, batch = plan.job.checkpoint, plan.batch
    values = {
        "MODEL": plan.job.model,
        "BATCH_MICRO": batch.micro,
        "BATCH_ACCUMULATION": batch.accumulation,
        "BATCH_GLOBAL": batch.train,
        "CHECKPOINT_EVERY": kept.every,
        "CHECKPOINT_KEEP": kept.keep,
        "RESUME_FROM": resume_folder(kept.resume, runs) or "",
    }
    taken = {v.name for v in plan.environment} | {s.variable for s in plan.secrets}
    return {k: str(v) for k, v in values.items() if v is not None and k not in taken}


def problems(job: Job, slots: int) -> Iterator[Problem]:
    """A command that starts ranks itself in every rank's place; and what our workloads have no use for."""
    name, hint = job.workload, "leave it out: it is for programs of your own"
    if job.command is not None:
        yield from starters.problems(job, slots)
    if workloads.is_script(name):
        return
    if job.processes == "host":
        what = f"processes: host, and workload {name!r} needs a process for each slot"
        yield Problem(what, hint, about=("job", "processes"))
    if job.checkpoint.any_ranks:
        what = f"checkpoint.any_ranks: what workload {name!r} goes on from is known"
        yield Problem(what, hint, about=("job", "checkpoint", "any_ranks"))
    if job.signal not in ("USR2", "TERM"):
        what = f"signal {job.signal}: workload {name!r} saves on SIGUSR2 and SIGTERM"
        yield Problem(what, hint, about=("job", "signal"))


def resume_folder(named: str | None, runs: str) -> str | None:
    """A run's id stands for its checkpoints folder; anything with a slash is a folder already."""
    return named if named is None or "/" in named else f"{runs}/{named}/checkpoints"


def stop_after(plan: Plan) -> int:
    """Seconds from Slurm's signal before the walltime until ranks that go on are stopped, to be put back."""
    return plan.cluster.slurm.signal_seconds - STOP


def warnings(plan: Plan, why: str) -> Iterator[Problem]:
    """What a job asks of Slurm alone, for a scheduler that does not do it. `why`: of its walltime, in words."""
    if plan.job.checkpoint.requeue:
        what, hint = f"checkpoint.requeue is not done: {why}", "leave it out, or run the job on Slurm"
        yield Problem(what, hint, about=("job", "checkpoint", "requeue"))

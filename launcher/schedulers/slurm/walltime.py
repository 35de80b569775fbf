"""A job's walltime on Slurm: what Slurm can count, and whether it leaves ranks time to train and to save.

Owns that arithmetic; when ranks that go on are stopped is planning/own_program.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import units
from launcher.errors import Problem
from launcher.planning import own_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

# sbatch sends its signal up to this many seconds early: https://slurm.schedmd.com/sbatch.html#OPT_signal
_EARLY = 60
# sbatch counts a time limit in seconds, as an int of C (slurm/src/common/parse_time.c, time_str2secs)
_LONGEST = 2**31 - 1
# Seconds from the signal that a program needs at least to end its step and write a checkpoint.
_LEAST = 10


def problems(plan: Plan) -> Iterator[Problem]:
    """Why the walltime, or the time from Slurm's signal to its end, does not do."""
    walltime, seconds = plan.job.walltime, plan.cluster.slurm.signal_seconds
    about = ("job", "walltime")
    if (
        walltime <= seconds + _EARLY
    ):  # the signal would come at once: put back again and again, and never train
        what = (
            f"walltime {units.clock(walltime)} leaves no time to train: ranks get the signal to save "
            f"{seconds} s before its end, and Slurm may send that {_EARLY} s early"
        )
        hint = f"use a walltime above {seconds + _EARLY} s, or a smaller slurm.signal_seconds"
        yield Problem(what, hint, about=about)
    if walltime > _LONGEST:
        what = f"walltime {units.clock(walltime)} is more than Slurm can count"
        yield Problem(what, f"use at most {_LONGEST // 86400}d", about=about)
    left = seconds - own_program.STOP
    if plan.job.checkpoint.requeue and left < _LEAST:
        what = (
            f"checkpoint.requeue: slurm.signal_seconds {seconds} leaves the program {max(0, left)} s to save: the last "
            f"{own_program.STOP} s of the walltime end it and put the job back"
        )
        hint = f"use slurm.signal_seconds: {own_program.STOP + _LEAST} or more"
        yield Problem(what, hint, about=("cluster", "slurm", "signal_seconds"))

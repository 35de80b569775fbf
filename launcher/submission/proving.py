"""The runs of a proof: one undisturbed, one that is interrupted, one that goes on with another number of ranks.

Owns what is changed in a job for it, the order, and waiting for its runs; what they told is runs/evidence.py's to
compare. Interruptions come by step, not by the clock: our workloads order them themselves (`interrupt`, options.py in
docker/workloads); a program of one's own is interrupted once it has printed the loss of that step.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from launcher import entry, schedulers, workloads
from launcher.errors import PlanError, Problem, SubmitError
from launcher.runs import evidence
from launcher.runs.status import ENDED, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run

EVERY = 2  # steps between checkpoints: a kill then costs a step, which is done again
KEEP = 2  # checkpoints of a run on its way; what they hold is told by digests
BOUNDS = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 1e-2}  # relative, where sums are made in another order
_POLL = 0.1  # seconds
_QUIET = {
    "export": False,
    "tensorboard": False,
    "wandb": None,
    "mlflow": None,
    "eval-every": 0,
    "epochs": None,
}

# No run of a proof tells anybody, or reads and writes what is kept for the job itself; a step to profile may come too
# late for it.
_ALONE = {
    "profile.flops": "null",
    "checkpoint.local": "null",
    "checkpoint.mirror": "null",
    "spares": "0",
    "notify": "[]",
    "cluster.notify": "[]",
}


class Interruption(NamedTuple):
    """`how`: KILL of a rank, TERM (as a preemption), or USR2, the launcher's own signal before the walltime."""

    step: int
    how: str

    def __str__(self) -> str:
        return f"{self.how} at step {self.step}"


def problem(plan: Plan, scheduler: str) -> Problem | None:
    """Why this job cannot be proven there, if it cannot."""
    workload = plan.job.workload
    if scheduler == "kubernetes":
        what = "prove starts and interrupts runs on this machine or on Slurm, not on Kubernetes"
        return Problem(what, "use `prove JOB --on local`, with --cluster laptop for CPU ranks")
    if workloads.is_script(workload):
        what = "a program of one's own is interrupted from outside, which prove does on this machine alone"
        return None if scheduler == "local" else Problem(what, "use `prove JOB --on local`")
    if not workloads.takes(workload, "interrupt") or not workloads.takes(workload, "max-steps"):
        what = f"workload {workload!r} does not train in steps from which it could go on"
        return Problem(what, "prove a job that trains", about=("job", "workload"))
    return None


def interruptions(steps: int, kills: int, on_signal: bool) -> list[Interruption]:
    """Where a run of so many steps is interrupted, evenly over it; `on_signal`: the job has one before the walltime.

    Raises PlanError where there are too few steps.
    """
    ways = ["KILL"] * kills + ["TERM"] + ["USR2"] * on_signal
    least = EVERY * (len(ways) + 1)
    if steps < least:
        what = f"--steps {steps} are too few for {len(ways)} interruptions"
        raise PlanError(Problem(what, f"use --steps {least} or more, or fewer --kills"))
    apart = steps / (EVERY * (len(ways) + 1))
    return [Interruption(EVERY * int(n * apart), how) for n, how in enumerate(ways, 1)]


def settings(plan: Plan, steps: int) -> list[str]:
    """What each run of the proof of a job changes in it, as words of --set; of one's own program nothing is known."""
    fixed = [f"checkpoint.every={EVERY}", "restarts=0", *(f"{name}={word}" for name, word in _ALONE.items())]
    fixed += [f"nodes={plan.nodes}"] if plan.sizes else []
    if workloads.is_script(plan.job.workload):
        return fixed
    fixed.append(f"checkpoint.keep={KEEP}")
    overrides = bool(plan.job.deepspeed.overrides)
    fixed.append(
        f"deepspeed{'.preset' if overrides else ''}={plan.preset}"
    )  # auto may choose another for fewer ranks
    args = {**_QUIET, "max-steps": steps, "log-every": 1, "digests": True}
    taken = {name: value for name, value in args.items() if workloads.takes(plan.job.workload, name)}
    return fixed + [f"args.{name}={json.dumps(value)}" for name, value in taken.items()]


def left_out(plan: Plan) -> list[str]:
    """What of the job a proof says nothing about, by the names of its fields."""
    kept = plan.job.checkpoint
    has = {
        "checkpoint.local": kept.local,
        "checkpoint.mirror": kept.mirror,
        "spares": plan.spares,
        "nodes.min": plan.job.nodes.min,
    }
    return [name for name, value in has.items() if value]


def interrupted(ways: Iterable[Interruption]) -> str:
    """The setting that has our workloads interrupt themselves."""
    return "args.interrupt=[" + ", ".join(f'"{way.step}:{way.how}"' for way in ways) + "]"


def other_ranks(plan: Plan) -> list[str]:
    """Settings for the same global batch on another number of ranks: fewer, or two CPU ranks for one; [] for none."""
    batch, slots, nodes, micro = plan.batch, plan.slots, plan.nodes, plan.batch.micro
    if slots > 1:
        ranks = [f"cluster.slots={slots // _least_factor(slots)}"]
    elif nodes > 1:
        ranks = [f"nodes={nodes // _least_factor(nodes)}"]
    elif not plan.gpu and batch.accumulation * micro % 2 == 0:
        ranks = ["cluster.slots=2"]
        micro = micro if batch.accumulation % 2 == 0 else micro // 2
    else:
        return []
    return [*ranks, f"batch={{micro: {micro}, global: {batch.train}}}"]


def _least_factor(number: int) -> int:
    return next(factor for factor in range(2, number + 1) if number % factor == 0)


def nothing() -> None:
    """What is done while a run is waited for that interrupts itself."""


def ended(run: Run, meanwhile: Callable[[], None] = nothing) -> Status:
    """Wait for the end of a run, which is cancelled when this process is interrupted. `meanwhile` is called often."""
    status = schedulers.load(run.scheduler).status
    pause = _POLL if run.scheduler == "local" else 2.0
    try:
        while (now := status(run)).state not in ENDED:
            meanwhile()
            time.sleep(pause)
    except (KeyboardInterrupt, SubmitError):
        schedulers.load(run.scheduler).cancel(run)
        raise
    return now


class Outside:
    """Interrupts a program of one's own on this machine, once it has printed the loss of a step in this attempt."""

    def __init__(self, run: Run, way: Interruption) -> None:
        self.run, self.way, self.done = run, way, False
        self._before = len(evidence.read(run.folder).losses)

    def __call__(self) -> None:
        now = evidence.read(self.run.folder).losses[self._before :]
        if self.done or not any(told.step >= self.way.step for told in now):
            return
        self.done = True
        with contextlib.suppress(ProcessLookupError):
            if self.way.how == "KILL":
                found = entry.module("rank_shell").find(str(self.run.folder), 0)
                if found:
                    os.kill(int(found[0]), signal.SIGKILL)
            else:
                script = int(self.run.native_id.partition(":")[0])
                os.kill(script, signal.Signals[f"SIG{self.way.how}"])

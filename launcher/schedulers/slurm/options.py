"""sbatch's options of a plan.

Owns which options the launcher decides and how a user's own are checked; quoting is `rendering`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import PlanError, Problem, of_field, shown
from launcher.schedulers.slurm import exported, sbatch

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

# sbatch sends its signal up to this many seconds early: https://slurm.schedmd.com/sbatch.html#OPT_signal
_EARLY = 60


def _too_short(plan: Plan) -> list[Problem]:
    """A job whose signal to save comes at once: it would be put back again and again, and never train."""
    needed = plan.cluster.slurm.signal_seconds + _EARLY
    if plan.job.walltime > needed:
        return []
    what = (
        f"walltime {units.clock(plan.job.walltime)} leaves no time to train: ranks get the signal to save "
        f"{plan.cluster.slurm.signal_seconds} s before its end, and Slurm may send that {_EARLY} s early"
    )
    hint = f"use a walltime above {needed} s, or a smaller slurm.signal_seconds"
    return [Problem(what, hint, about=("job", "walltime"))]


# sbatch counts a time limit in seconds, as an int of C (slurm/src/common/parse_time.c, time_str2secs)
_LONGEST = 2**31 - 1


def _too_long(plan: Plan) -> list[Problem]:
    """A walltime that Slurm's count of minutes does not hold: sbatch would take another one."""
    if plan.job.walltime <= _LONGEST:
        return []
    what = f"walltime {units.clock(plan.job.walltime)} is more than Slurm can count"
    return [Problem(what, f"use at most {_LONGEST // 86400}d", about=("job", "walltime"))]


def _problem(name: str, value: Any) -> Problem | None:
    about = ("cluster", "slurm", "sbatch", name)
    if name in sbatch.OWNED:
        hint = f"use {sbatch.OWNED[name]}" if sbatch.OWNED[name] else "leave it out"
        return Problem(f"slurm.sbatch.{name} is set by the launcher", hint, about=about)
    for what, hint in (sbatch.name_problem(name), sbatch.value_problem(name, value)):
        if what:
            return Problem(f"slurm.sbatch.{units.printable(name)[:60]} {what}", hint, about=about)
    return None


def _setup(plan: Plan) -> list[Problem]:
    """Lines of the cluster's own that sbatch would read as options: they stand before the first command."""
    lines = [line for text in plan.cluster.slurm.setup for line in text.splitlines()]
    if any(line.startswith("#SBATCH") for line in lines):
        hint = "use slurm.sbatch for options"
        return [of_field("cluster", "slurm.setup", "holds an #SBATCH line", hint)]
    return []


def of(plan: Plan) -> list[tuple[str, Any]]:
    """sbatch's long options with their values; True for an option without one."""
    slurm = plan.cluster.slurm
    options: dict[str, Any] = {
        "job-name": plan.id,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "nodes": plan.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": plan.cluster.cpus,
        "time": units.clock(plan.job.walltime),
        "signal": f"USR2@{slurm.signal_seconds}",
        "open-mode": "append",
        "export": exported.option(plan),
        "requeue" if plan.job.restarts else "no-requeue": True,
    }
    if plan.gpu:
        # all of a host: NCCL, host memory and /dev/shm belong to one job
        options |= {"gpus-per-node": plan.slots, "exclusive": True, "mem": 0}
    problems = [*_too_short(plan), *_too_long(plan)]
    for name, value in slurm.sbatch.items():
        problem = _problem(name, value)
        if problem:
            problems.append(problem)
        else:
            options[name] = value
    if plan.exclude:
        options["exclude"] = ",".join(filter(None, (str(options.get("exclude", "")), *plan.exclude)))
    if plan.after and options.get("dependency"):
        what = "is set by what this job runs after"
        problems.append(of_field("cluster", "slurm.sbatch.dependency", what, "leave it out"))
    if plan.after:
        # afterok alone would leave a job pending for ever when the one before it fails
        options |= {"dependency": f"afterok:{':'.join(plan.after)}", "kill-on-invalid-dep": "yes"}
    for field in ("partition", "account", "qos"):
        written = getattr(slurm, field)
        if written is not None and (not written or set(written) & set("\n\r")):
            what = f"{shown(written)} cannot be written in an #SBATCH line"
            problems.append(of_field("cluster", f"slurm.{field}", what, "give it one value on one line"))
    problems += _setup(plan)
    if problems:
        raise PlanError(*problems)
    return [(name, value) for name, value in options.items() if value is not None and value is not False]

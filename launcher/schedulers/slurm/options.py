"""sbatch's options of a plan.

Owns which options the launcher decides and how a user's own are checked; quoting is `rendering`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import PlanError, Problem, SpecError, of_field, shown
from launcher.schedulers.slurm import exported, resources, sbatch, walltime

if TYPE_CHECKING:
    from launcher.planning.plan import Plan


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
    problems = []
    if any(line.startswith("#SBATCH") for text in plan.cluster.slurm.setup for line in text.splitlines()):
        hint = "use slurm.sbatch for options"
        problems.append(of_field("cluster", "slurm.setup", "holds an #SBATCH line", hint))
    if any("\r" in text or "\0" in text for text in plan.cluster.slurm.setup):
        # sbatch: Batch script contains DOS line breaks
        what = "holds a carriage return or a NUL, which sbatch takes in no script"
        problems.append(
            of_field("cluster", "slurm.setup", what, "take it away: lines end with a newline alone")
        )
    return problems


def _stays(plan: Plan) -> list[Problem]:
    """Without --no-kill Slurm ends a job that has lost a host, whatever is left."""
    if not plan.stays or plan.cluster.slurm.sbatch.get("no-kill", True) is True:
        return []
    what = f"is set by the job's {'spares' if plan.spares else 'nodes: {min, max}'}"
    return [of_field("cluster", "slurm.sbatch.no-kill", what, "leave it out")]


def of(plan: Plan) -> list[tuple[str, Any]]:
    """sbatch's long options with their values; True for an option without one."""
    slurm = plan.cluster.slurm
    options: dict[str, Any] = {
        "job-name": plan.id,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "nodes": "-".join(map(str, sorted({plan.fewest, plan.allocated}))),
        "no-kill": plan.stays,
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
    mistakes = [problem for name, value in slurm.sbatch.items() if (problem := _problem(name, value))]
    problems = [*walltime.problems(plan), *resources.problems(plan)]
    options = {name: value for name, value in options.items() if name not in resources.replaced(slurm.sbatch)}
    options |= slurm.sbatch
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
    problems += [*_setup(plan), *_stays(plan)]
    if mistakes:
        raise SpecError(*mistakes, *problems)
    if problems:
        raise PlanError(*problems)
    return [(name, value) for name, value in options.items() if value is not None and value is not False]

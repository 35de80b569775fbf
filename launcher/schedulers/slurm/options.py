"""sbatch's options of a plan.

Owns which options the launcher decides and how a user's own are checked; quoting is `rendering`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import PlanError, Problem, shown
from launcher.schedulers.slurm import exported, sbatch, walltime

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

# What the launcher decides; a job that needs another value changes the field that is named.
_OWNED = {
    "container": "`slurm.container`",
    "container-id": "`slurm.container`",
    "nodes": "`nodes:` of the job",
    "ntasks": "",  # there is one task a host
    "ntasks-per-node": "",
    "export": "`slurm.export`",
    "export-file": "`slurm.export`",
    "get-user-env": "`slurm.export`",
    "output": "",  # logs are in the run folder
    "tasks": "",
    "tasks-per-node": "",
    "time": "`walltime:` of the job",
    "signal": "`slurm.signal_seconds`",
    "job-name": "`name:` of the job",
    "partition": "`slurm.partition`",
    "account": "`slurm.account`",
    "qos": "`slurm.qos`",
    "array": "",  # one job is one run
    "no-requeue": "`restarts: 0`",
    "requeue": "`restarts:` of the job",
}


def _problem(name: str, value: Any) -> Problem | None:
    about = ("cluster", "slurm", "sbatch", name)
    if name in _OWNED:
        hint = f"use {_OWNED[name]}" if _OWNED[name] else "leave it out"
        return Problem(f"slurm.sbatch.{name} is set by the launcher", hint, about=about)
    for what, hint in (sbatch.name_problem(name), sbatch.value_problem(name, value)):
        if what:
            return Problem(f"slurm.sbatch.{units.printable(name)[:60]} {what}", hint, about=about)
    return None


def _setup(plan: Plan) -> list[Problem]:
    """Lines of the cluster's own that sbatch would read as options: they stand before the first command."""
    about, setup = ("cluster", "slurm", "setup"), plan.cluster.slurm.setup
    problems = []
    if any(line.startswith("#SBATCH") for text in setup for line in text.splitlines()):
        problems.append(
            Problem("slurm.setup holds an #SBATCH line", "use slurm.sbatch for options", about=about)
        )
    if any("\r" in text or "\0" in text for text in setup):  # sbatch: Batch script contains DOS line breaks
        what = "slurm.setup holds a carriage return or a NUL, which sbatch takes in no script"
        problems.append(Problem(what, "take it away: lines end with a newline alone", about=about))
    return problems


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
    problems = list(walltime.problems(plan))
    for name, value in slurm.sbatch.items():
        problem = _problem(name, value)
        if problem:
            problems.append(problem)
        else:
            options[name] = value
    if plan.exclude:
        options["exclude"] = ",".join(filter(None, (str(options.get("exclude", "")), *plan.exclude)))
    if plan.after and options.get("dependency"):
        what, about = "slurm.sbatch.dependency is set by what this job runs after", ("dependency",)
        problems.append(Problem(what, "leave it out", about=("cluster", "slurm", "sbatch", *about)))
    if plan.after:
        # afterok alone would leave a job pending for ever when the one before it fails
        options |= {"dependency": f"afterok:{':'.join(plan.after)}", "kill-on-invalid-dep": "yes"}
    for field in ("partition", "account", "qos"):
        written = getattr(slurm, field)
        if written is not None and (not written or set(written) & set("\n\r")):
            what = f"slurm.{field} {shown(written)} cannot be written in an #SBATCH line"
            problems.append(Problem(what, "give it one value on one line", about=("cluster", "slurm", field)))
    problems += _setup(plan)
    if problems:
        raise PlanError(*problems)
    return [(name, value) for name, value in options.items() if value is not None and value is not False]

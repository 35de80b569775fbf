"""sbatch's options of a plan.

Owns which options the launcher decides and how a user's own are checked; quoting is `rendering`'s.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import PlanError, Problem

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

# What the launcher decides; a job that needs another value changes the field that is named.
_OWNED = {
    "nodes": "`nodes:` of the job",
    "ntasks": "",  # there is one task a host
    "ntasks-per-node": "",
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


# sbatch sends its signal up to this many seconds early: https://slurm.schedmd.com/sbatch.html#OPT_signal
_EARLY = 60


def _too_short(plan: Plan) -> list[Problem]:
    """A job whose signal to save comes at once: it would be put back again and again, and never train."""
    needed = plan.cluster.slurm.signal_seconds + _EARLY
    if plan.job.walltime > needed:
        return []
    what = (
        f"walltime {units.clock(plan.job.walltime)} leaves no time to train: ranks are told to save "
        f"{plan.cluster.slurm.signal_seconds} s before its end, and Slurm may send that {_EARLY} s early"
    )
    hint = f"use a walltime above {needed} s, or a smaller slurm.signal_seconds"
    return [Problem(what, hint, about=("job", "walltime"))]


def of(plan: Plan) -> list[tuple[str, Any]]:
    """sbatch's long options with their values; True for an option without one."""
    slurm = plan.cluster.slurm
    made: dict[str, Any] = {
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
        "requeue" if plan.job.restarts else "no-requeue": True,
    }
    if plan.gpu:
        # all of a host: NCCL, host memory and /dev/shm belong to one job
        made |= {"gpus-per-node": plan.slots, "exclusive": True, "mem": 0}
    problems = _too_short(plan)
    for name, value in slurm.sbatch.items():
        where, about = f"slurm.sbatch.{name}", ("cluster", "slurm", "sbatch", name)
        if name in _OWNED:
            hint = f"use {_OWNED[name]}" if _OWNED[name] else "leave it out"
            problems.append(Problem(f"{where} is set by the launcher", hint, about=about))
        elif not re.fullmatch(r"[a-z][a-z0-9-]+", name):
            hint = "write the long name without leading dashes"
            problems.append(Problem(f"{where} is not an sbatch option", hint, about=about))
        elif isinstance(value, (dict, list)) or "\n" in str(value) or "\0" in str(value):
            hint = "give it one value on one line"
            problems.append(Problem(f"{where} cannot be written in an #SBATCH line", hint, about=about))
        else:
            made[name] = value
    if plan.exclude:
        made["exclude"] = ",".join(filter(None, (str(made.get("exclude", "")), *plan.exclude)))
    if plan.after:
        # afterok alone would leave a job pending for ever when the one before it fails
        made |= {"dependency": f"afterok:{':'.join(plan.after)}", "kill-on-invalid-dep": "yes"}
    written = (slurm.partition, slurm.account, slurm.qos)
    if any("\n" in str(value) for value in written):
        what, hint = "slurm.partition, account and qos are one line each", "remove the line breaks"
        problems.append(Problem(what, hint, about=("cluster", "slurm")))
    if problems:
        raise PlanError(*problems)
    return [(name, value) for name, value in made.items() if value is not None and value is not False]

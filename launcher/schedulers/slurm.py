"""Slurm: one self-contained batch script, submitted and followed through submitit.

Owns sbatch options and Slurm's words for states; the script's text is templates/slurm/job.sh.j2.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from launcher import command, containers, logfiles, nccl, units
from launcher import render as templates
from launcher.errors import PlanError, Problem, SubmitError, ToolMissingError
from launcher.schedulers import Files, Selection, State, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.plan import Plan
    from launcher.runs import Run

# What the launcher decides; a job that needs another value changes the field that is named.
_OWNED = {
    "nodes": "`nodes:` of the job",
    "ntasks": "nothing: there is one task a host",
    "ntasks-per-node": "nothing: there is one task a host",
    "time": "`walltime:` of the job",
    "signal": "`slurm.signal_seconds`",
    "job-name": "`name:` of the job",
    "partition": "`slurm.partition`",
    "account": "`slurm.account`",
    "qos": "`slurm.qos`",
    "array": "nothing: one job is one run",
    "no-requeue": "`restarts: 0`",
    "requeue": "`restarts:` of the job",
}

# https://slurm.schedmd.com/sacct.html#SECTION_JOB-STATE-CODES, and the states that only squeue shows.
# A run that Slurm will start again by itself is PENDING: it is not over.
STATES: dict[str, State] = {
    "BOOT_FAIL": "FAILED",
    "CANCELLED": "CANCELLED",
    "COMPLETED": "SUCCEEDED",
    "COMPLETING": "RUNNING",
    "CONFIGURING": "PENDING",
    "DEADLINE": "FAILED",
    "FAILED": "FAILED",
    "NODE_FAIL": "FAILED",
    "OUT_OF_MEMORY": "FAILED",
    "PENDING": "PENDING",
    "PREEMPTED": "FAILED",
    "REQUEUED": "PENDING",
    "REQUEUE_FED": "PENDING",
    "REQUEUE_HOLD": "PENDING",
    "RESIZING": "RUNNING",
    "REVOKED": "CANCELLED",
    "RUNNING": "RUNNING",
    "SIGNALING": "RUNNING",
    "SPECIAL_EXIT": "FAILED",
    "STAGE_OUT": "RUNNING",
    "STOPPED": "RUNNING",
    "SUSPENDED": "RUNNING",
    "TIMEOUT": "FAILED",
}

# Slurm's reasons, in words: https://slurm.schedmd.com/job_reason_codes.html
REASONS = {
    "BeginTime": "waiting for its start time (after a requeue: a short pause)",
    "Dependency": "waiting for another job",
    "DependencyNeverSatisfied": "the job it waits for failed: it will never start; cancel it",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held by you: scontrol release it",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions": (
        "the hosts it needs are down, drained or reserved"
    ),
    "PartitionDown": "the partition is down",
    "PartitionNodeLimit": "it asks for more hosts than the partition allows",
    "PartitionTimeLimit": "its walltime is more than the partition allows",
    "Priority": "other jobs have a higher priority",
    "QOSMaxGRESPerUser": "your quota of GPUs is in use",
    "ReqNodeNotAvail": "hosts it needs are not available",
    "Resources": "waiting for free hosts",
}


def render(plan: Plan) -> Files:
    """`job.sh`. Raises PlanError for options that cannot be written or that the launcher owns."""
    nccl.require(plan.fabric, "slurm")
    runtime = plan.cluster.slurm.container
    text = templates.text(
        "slurm/job.sh.j2",
        plan=plan,
        options=_options(plan),
        node=containers.node_entry(runtime, plan),
        command=command.ranks(plan, plan.folder, f"{plan.folder}/ds_config.json"),
        config=json.dumps(plan.config, indent=1),
        secrets=templates.home(plan.cluster.slurm.secrets),
    )
    return {"job.sh": text}


def _options(plan: Plan) -> list[tuple[str, Any]]:
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
    problems = []
    for name, value in slurm.sbatch.items():
        where = f"slurm.sbatch.{name}"
        if name in _OWNED:
            problems.append(Problem(f"{where} is set by the launcher", f"use {_OWNED[name]}"))
        elif not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            problems.append(
                Problem(f"{where} is not an sbatch option", "write the long name without dashes in front")
            )
        elif isinstance(value, (dict, list)) or "\n" in str(value) or "\0" in str(value):
            problems.append(
                Problem(f"{where} cannot be written in an #SBATCH line", "give it one value on one line")
            )
        else:
            made[name] = value
    written = (slurm.partition, slurm.account, slurm.qos)
    if any("\n" in str(value) for value in written):
        problems.append(Problem("slurm.partition, account and qos are one line each"))
    if problems:
        raise PlanError(*problems)
    return [(name, value) for name, value in made.items() if value is not None and value is not False]


def submit(plan: Plan, files: Files) -> str:
    """Submit through submitit. Returns Slurm's job id."""
    _need("sbatch")
    from launcher.schedulers import submission

    return submission.submit(plan, files["job.sh"])


def status(run: Run) -> Status:
    """What squeue says while Slurm knows the job, else what accounting says, else the run's own exit file."""
    hosts = tuple(logfiles.host_names(run.folder))
    live = _squeue(run.native_id)
    if live:
        word, reason = live
        return Status(STATES.get(word, "UNKNOWN"), _explain(word, reason), _code(run, word), hosts)
    word = _sacct(run.native_id)
    if word:
        return Status(STATES.get(word, "UNKNOWN"), _explain(word, ""), _code(run, word), hosts)
    code = logfiles.exit_code(run.folder)
    if code is not None:
        return Status("FAILED" if code else "SUCCEEDED", "", code, hosts)
    return Status("UNKNOWN", "Slurm does not know the job any more", None, hosts)


def _code(run: Run, word: str) -> int | None:
    return logfiles.exit_code(run.folder) if STATES.get(word, "UNKNOWN") in {"SUCCEEDED", "FAILED"} else None


def _explain(word: str, reason: str) -> str:
    if word == "PENDING":
        return REASONS.get(reason, reason)
    plain = word in {"RUNNING", "COMPLETED", "FAILED", "CANCELLED"} or word not in STATES
    return word if word not in STATES else "" if plain else word.replace("_", " ").lower()


def logs(run: Run, selection: Selection) -> Iterator[str]:
    """The lines of the job's log, or of one rank's or host's, from the shared run folder."""
    return logfiles.lines(run, selection, lambda: status(run).state)


def cancel(run: Run) -> None:
    """scancel the job; one that ended is left as it is."""
    _need("scancel")
    _call("scancel", run.native_id)


def _squeue(job: str) -> tuple[str, str] | None:
    """(state, reason) of a job that slurmctld still knows: it forgets one MinJobAge (300 s) after its end."""
    _need("squeue")
    done = subprocess.run(
        ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T|%r"], capture_output=True, text=True
    )
    if done.returncode and "Invalid job id" not in done.stderr:
        raise SubmitError(
            f"squeue: {done.stderr.strip() or done.returncode}", hint="try again when Slurm answers"
        )
    word, _, reason = done.stdout.strip().partition("|")
    return (word, reason) if word else None


def _sacct(job: str) -> str:
    """The job's last state from accounting, or '' where there is none."""
    if not shutil.which("sacct"):
        return ""
    words = ["sacct", "-X", "-n", "-P", "-j", job, "-o", "State"]
    done = subprocess.run(words, capture_output=True, text=True)
    states = done.stdout.split("\n")
    return states[0].split(" ")[0] if done.returncode == 0 and states else ""


def _call(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SubmitError(f"{words[0]}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout


def _need(tool: str) -> None:
    if not shutil.which(tool):
        raise ToolMissingError(
            f"{tool} is not on this machine's PATH",
            hint="run it on a login host of the cluster; --dry-run works everywhere",
        )

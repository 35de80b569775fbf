"""Slurm's words, in ours: states and reasons.

Owns the two tables; asking Slurm is `query`'s.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.runs.status import State
    from launcher.schedulers.slurm.query import Seen

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
    "BeginTime": "waiting for its begin time (after a requeue: a short delay)",
    "Dependency": "waiting for a job it depends on",
    "DependencyNeverSatisfied": "the job it depends on failed, so it will never start; cancel it",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held by its user: `scontrol release JOBID`",
    "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions": (
        "the nodes it needs are down, drained or reserved"
    ),
    "PartitionDown": "the partition is down",
    "PartitionNodeLimit": "requests more nodes than the partition allows",
    "PartitionTimeLimit": "its time limit exceeds the partition's",
    "Priority": "other jobs have a higher priority",
    "QOSMaxGRESPerUser": "your quota of GPUs is in use",
    "ReqNodeNotAvail": "nodes it needs are not available",
    "Resources": "waiting for free nodes",
}

# What Slurm ended by itself; `launcher resume RUN` continues from the latest checkpoint.
_ENDED_BY_SLURM = {"BOOT_FAIL", "DEADLINE", "NODE_FAIL", "PREEMPTED", "TIMEOUT"}

# For a job that waits for something else than free hosts, Slurm's guess of the start means nothing.
_NO_START = ("JobHeld", "Dependency", "Partition")


def state(word: str) -> State:
    """UNKNOWN for a word that a newer Slurm may use."""
    return STATES.get(word, "UNKNOWN")


def explain(seen: Seen, now: float | None = None) -> str:
    """Why a job is in its state, in words; empty where the state says all."""
    if seen.word == "PENDING":
        reason = REASONS.get(seen.reason, "" if seen.reason == "None" else seen.reason)
        stuck = seen.reason.startswith(_NO_START)
        start = "" if stuck else _start(seen.start, time.time() if now is None else now)
        return "; ".join(filter(None, (reason, start)))
    if seen.word in _ENDED_BY_SLURM:
        return f"{_plain(seen.word)}; `launcher resume RUN` continues from the latest checkpoint"
    if seen.word not in STATES:
        return seen.word
    return "" if seen.word in {"RUNNING", "COMPLETED", "FAILED", "CANCELLED"} else _plain(seen.word)


def _plain(word: str) -> str:
    return word.replace("_", " ").lower()


def _start(text: str, now: float) -> str:
    """Slurm's guess of the start, such as 2026-01-31T12:00:00; N/A until it has made one."""
    try:
        at = time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return ""
    if at < now + 60:
        return ""
    day = time.strftime("%Y-%m-%d ", time.localtime(at)) if at - now > 12 * 3600 else ""
    return f"Slurm expects it to start at {day}{time.strftime('%H:%M', time.localtime(at))}"

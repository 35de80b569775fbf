"""What Slurm knows about jobs: one squeue and at most one sacct for any number of them.

Owns the two commands and their output; what the words mean is in `states`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from launcher.errors import SubmitError, ToolMissingError
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Seen(NamedTuple):
    """A job's state in Slurm's own word; why it waits and its expected start come from squeue alone."""

    word: str
    reason: str = ""
    start: str = ""


def surroundings() -> dict[str, str]:
    """This process's variables without those by which a user has Slurm's commands show less, or times in other words.

    https://slurm.schedmd.com/squeue.html#SECTION_ENVIRONMENT-VARIABLES
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SQUEUE_", "SINFO_")) and name != "SLURM_TIME_FORMAT"
    }


def look(jobs: Sequence[str]) -> dict[str, Seen]:
    """What is known of each job id (of an array's element: `36_0`); those that Slurm forgot are missing.

    slurmctld forgets a job MinJobAge (300 s) after its end; accounting does not, but not every site has it.
    Raises SubmitError when Slurm does not answer, ToolMissingError without squeue.
    """
    live = _squeue(jobs)
    gone = [job for job in jobs if job not in live]
    return live | _sacct(gone) if gone else live


def _squeue(jobs: Sequence[str]) -> dict[str, Seen]:
    need("squeue")
    words = ["squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%S|%r", "-j", ",".join(jobs)]
    done = _run(words)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise SubmitError(
            f"squeue: {done.stderr.strip() or done.returncode}", hint="try again when Slurm answers"
        )
    seen = {}
    for line in done.stdout.splitlines():
        job, _, rest = line.partition("|")
        word, _, rest = rest.partition("|")
        start, _, reason = rest.partition("|")
        seen[job] = Seen(word, reason, start)
    return seen


def _sacct(jobs: Sequence[str]) -> dict[str, Seen]:
    """Empty without accounting, where sacct fails."""
    if not shutil.which("sacct"):
        return {}
    words = ["sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(jobs)]
    done = _run(words)
    pairs = [line.partition("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {job: Seen(words.split(" ")[0]) for job, _, words in pairs if words}  # "CANCELLED by 0"


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # a site's own messages may be in any encoding
    return subprocess.run(words, env=surroundings(), capture_output=True, text=True, errors="replace")


def job_of(script: str) -> str | None:
    """The id of this user's job that was submitted as `script`, a path; None when Slurm has none.

    Raises SubmitError when Slurm does not answer, ToolMissingError without squeue.
    """
    listed = call(*("squeue", "-h", "--me", "-t", "all", "-o", "%F|%o"))
    jobs = (line.partition("|") for line in listed.splitlines())
    return next((job for job, _, command in jobs if command == script), None)


def call(*words: str) -> str:
    """Run one of Slurm's commands. Returns its stdout; raises SubmitError with its words."""
    need(words[0])
    done = _run(words)
    if done.returncode:
        raise SubmitError(f"{words[0]}: {done.stderr.strip() or done.stdout.strip() or done.returncode}")
    return done.stdout


def need(tool: str) -> None:
    """Raises ToolMissingError when `tool` is not on PATH."""
    if not shutil.which(tool):
        raise ToolMissingError(
            f"{tool} is not on this machine's PATH",
            hint="run it on a login host of the cluster; --dry-run works everywhere",
        )

"""submitit, told to submit our script instead of its own.

Owns the two hooks that are overridden; they are not documented, so pyproject.toml holds submitit's minor version.
https://github.com/facebookincubator/submitit/blob/1.5.4/submitit/slurm/slurm.py
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths
from submitit.slurm.slurm import SlurmExecutor

from launcher.errors import LauncherError, PlanError, Problem, SubmitError, UnnamedJobError, shown
from launcher.schedulers.slurm import exported, query

if TYPE_CHECKING:
    from collections.abc import Sequence


class ScriptExecutor(SlurmExecutor):  # type: ignore[misc]
    """A SlurmExecutor that submits `text`; job handle, id and files are submitit's."""

    def __init__(self, folder: Path, text: str, nodes: int, options: Sequence[str]) -> None:
        super().__init__(folder)
        self.text, self.options, self.script = text, options, ""
        self.parameters = {"nodes": nodes, "ntasks_per_node": 1}

    @classmethod
    def name(cls) -> str:
        return "slurm"

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self.text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # the script writes its own log; this catches what goes wrong before it can
        log = f"{str(self.folder).replace('%', '%%')}/slurm-%j.log"
        self.script = str(submission_file_path)
        hidden = [f"--unset={name}" for name in exported.kept_back(self.text, os.environ)]
        return ["env", *hidden, "sbatch", f"--output={log}", *self.options, str(submission_file_path)]

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        text = string if isinstance(string, str) else string.decode(errors="replace")
        # a wrapper of the site's may say more, of jobs too, or ask for --parsable: `7`, or `7;cluster`
        answers = (r"^Submitted batch job ([0-9]+)", r"job ([0-9]+)", r"^([0-9]+)(?:;\S*)?$")
        found = (re.search(answer, text, re.MULTILINE | re.ASCII) for answer in answers)
        match = next(filter(None, found), None)
        if match is None:
            raise FailedSubmissionError(text)
        return match[1]

    def submit_text(self) -> Any:
        """The submitit job of `text`. Raises submitit's FailedJobError with sbatch's words."""
        return self._submit_command("")


def submit(
    run_folder: str, text: str, nodes: int, exclude: Sequence[str] = (), after: Sequence[str] = ()
) -> str:
    """Submit `text`, away from the hosts `exclude`, after the jobs `after`. Returns the job id.

    Raises SubmitError with sbatch's own words, and UnnamedJobError where a job may be in the queue all the same.
    """
    query.need("srun")  # of submitit
    if "\\" in run_folder:  # Slurm takes them out of a path for output, and writes to another folder then
        what = f"the run's folder {shown(run_folder)} has a backslash, and Slurm writes no logs there"
        raise PlanError(what, hint="set LAUNCHER_RUNS to a folder without it")
    folder = Path(run_folder) / "logs"
    folder.mkdir(exist_ok=True)
    options = [f"--exclude={','.join(exclude)}"] if exclude else []
    options += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    executor = ScriptExecutor(folder, text, nodes, options)
    try:
        job_id = str(executor.submit_text().job_id)
    except FailedSubmissionError as error:
        job_id = _find(executor, f"sbatch's answer names no job: {shown(str(error).strip())}")
    except FailedJobError as error:
        words = [line for line in str(error).splitlines() if line.startswith(("sbatch:", "slurm_"))]
        if not any("timed out" in word.lower() for word in words):
            raise SubmitError(*(words or [str(error).strip()])) from None
        job_id = _find(executor, *words)
    except BaseException:  # Ctrl-C, while sbatch may be done already
        _withdraw(executor)
        raise
    for leftover in JobPaths.get_first_id_independent_folder(folder).glob(".submission_file_*.sh"):
        leftover.unlink()  # submitit's symlink to the numbered script, or the script of a job that it did not hear of
    return job_id


def _find(executor: ScriptExecutor, *words: str) -> str:
    """The job that sbatch took without a usable answer. Raises UnnamedJobError."""
    try:
        job_id = query.job_of(executor.script)
    except LauncherError as error:
        raise UnnamedJobError(*words, *error.problems, _advice(executor)) from None
    if job_id is None:
        raise UnnamedJobError(*words, _advice(executor))
    return job_id


def _withdraw(executor: ScriptExecutor) -> None:
    try:
        job_id = query.job_of(executor.script) if executor.script else None
        if job_id is not None:
            query.call("scancel", job_id)
    except LauncherError as error:
        raise UnnamedJobError("interrupted", *error.problems, _advice(executor)) from None


def _advice(executor: ScriptExecutor) -> Problem:
    run = Path(executor.folder).parent
    what = f"its job may be in the queue, so its folder is kept: {run}"
    return Problem(what, f"look for it with `squeue --me --name={run.name}`")

"""submitit, told to submit our script instead of its own.

Owns the two hooks that are overridden; they are not documented, so pyproject.toml holds submitit's minor version.
https://github.com/facebookincubator/submitit/blob/1.5.4/submitit/slurm/slurm.py
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from submitit.core.utils import FailedJobError, FailedSubmissionError, JobPaths
from submitit.slurm.slurm import SlurmExecutor

from launcher.errors import SubmitError

if TYPE_CHECKING:
    from launcher.plan import Plan


class ScriptExecutor(SlurmExecutor):  # type: ignore[misc]
    """A SlurmExecutor that submits `text`; job handle, id and files are submitit's."""

    def __init__(self, folder: Path, text: str, nodes: int) -> None:
        super().__init__(folder)
        self.text = text
        self.parameters = {"nodes": nodes, "ntasks_per_node": 1}

    @classmethod
    def name(cls) -> str:
        return "slurm"

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self.text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # the script writes its own log; this catches what goes wrong before it can
        log = str(self.folder / "slurm-%j.log")
        return ["sbatch", f"--output={log}", str(submission_file_path)]

    def submit_text(self) -> Any:
        """The submitit job of `text`. Raises submitit's FailedJobError with sbatch's words."""
        return self._submit_command("")


def submit(plan: Plan, text: str) -> str:
    """Submit `text`. Returns the Slurm job id; raises SubmitError with sbatch's own words."""
    folder = Path(plan.folder) / "logs"
    folder.mkdir(exist_ok=True)
    try:
        job = ScriptExecutor(folder, text, plan.nodes).submit_text()
    except (FailedJobError, FailedSubmissionError) as error:
        words = [line for line in str(error).splitlines() if line.startswith(("sbatch:", "slurm_"))]
        raise SubmitError(*(words or [str(error).strip()])) from None
    for leftover in JobPaths.get_first_id_independent_folder(folder).glob(".submission_file_*.sh"):
        leftover.unlink()  # submitit's symlink to the numbered script
    return str(job.job_id)

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
    from collections.abc import Sequence


class ScriptExecutor(SlurmExecutor):  # type: ignore[misc]
    """A SlurmExecutor that submits `text`; job handle, id and files are submitit's."""

    def __init__(self, folder: Path, text: str, nodes: int, options: Sequence[str]) -> None:
        super().__init__(folder)
        self.text, self.options = text, options
        self.parameters = {"nodes": nodes, "ntasks_per_node": 1}

    @classmethod
    def name(cls) -> str:
        return "slurm"

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self.text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # the script writes its own log; this catches what goes wrong before it can
        log = str(self.folder / "slurm-%j.log")
        return ["sbatch", f"--output={log}", *self.options, str(submission_file_path)]

    def submit_text(self) -> Any:
        """The submitit job of `text`. Raises submitit's FailedJobError with sbatch's words."""
        return self._submit_command("")


def submit(
    run_folder: str, text: str, nodes: int, exclude: Sequence[str] = (), after: Sequence[str] = ()
) -> str:
    """Submit `text`, away from the hosts `exclude`, after the jobs `after`. Returns the job id.

    Raises SubmitError with sbatch's own words.
    """
    folder = Path(run_folder) / "logs"
    folder.mkdir(exist_ok=True)
    options = [f"--exclude={','.join(exclude)}"] if exclude else []
    options += [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    try:
        job = ScriptExecutor(folder, text, nodes, options).submit_text()
    except (FailedJobError, FailedSubmissionError) as error:
        words = [line for line in str(error).splitlines() if line.startswith(("sbatch:", "slurm_"))]
        raise SubmitError(*(words or [str(error).strip()])) from None
    for leftover in JobPaths.get_first_id_independent_folder(folder).glob(".submission_file_*.sh"):
        leftover.unlink()  # submitit's symlink to the numbered script
    return str(job.job_id)

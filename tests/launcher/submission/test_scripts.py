"""`diff --on slurm`: what a job would change against its last run, with exit codes as diff has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import schedulers
from launcher.cli import main
from launcher.planning import workspace
from launcher.runs import record
from tests import samples

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "it's here"
    folder.mkdir()
    (folder / "job.yaml").write_text(samples.JOB)
    (folder / "here.yaml").write_text(samples.CLUSTER)
    monkeypatch.setenv("LAUNCHER_RUNS", str(folder / "runs"))
    return str(folder / "job.yaml")


def submitted(job: str, at: float, *settings: str, scheduler: str = "slurm") -> str:
    """A run of `job`, as if it had been submitted at a time."""
    from launcher.planning import plan

    decided = plan.make(samples.loaded(job, None, settings), workspace.here())
    reserved = record.reserve(decided)
    record.prepare(reserved, schedulers.load(scheduler).render(reserved))
    record.record(
        record.prepared(Path(reserved.folder), scheduler), "7" if scheduler == "slurm" else "1:2", at
    )
    return reserved.id


def test_what_would_change(job: str, capsys: Capture) -> None:
    submitted(job, 1.0, "args.lr=1e-4")
    run = submitted(job, 2.0)
    submitted(job, 3.0, "name=another")
    submitted(job, 4.0, "args.lr=1e-3", scheduler="local")
    assert main.main(["diff", job, "--on", "slurm"]) == 0
    assert capsys.readouterr().out == "", "against the newest of this job on Slurm nothing would change"
    assert main.main(["diff", job, "--on", "slurm", "--set", "walltime=2h", "--set", "args.seed=3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"--- {run}/job.sh", "+++ demo"]
    changed = [line for line in lines[2:] if line.startswith(("+", "-"))]
    assert "-#SBATCH --time=1-00:00:00" in changed
    assert "+#SBATCH --time=02:00:00" in changed
    assert any("--seed=3" in line for line in changed)
    assert not any(run in line for line in changed), "ids and folders are not a change"
    assert main.main(["diff", job, "--on", "local"]) == 1
    assert "-      --lr=1e-3" in capsys.readouterr().out


def test_a_job_that_never_ran(job: str, capsys: Capture) -> None:
    submitted(job, 1.0, "name=another")
    assert main.main(["diff", job, "--on", "slurm"]) == 5
    assert "job demo has no run on slurm" in capsys.readouterr().err


def test_records_that_cannot_be_read_are_passed_over(job: str, capsys: Capture) -> None:
    run = submitted(job, 1.0)
    folder = workspace.runs() / run
    (folder / "job.sh").unlink()
    assert main.main(["diff", job, "--on", "slurm"]) == 5
    assert "job.sh cannot be read" in capsys.readouterr().err
    (folder / "plan.json").write_text("torn")
    assert main.main(["diff", job, "--on", "slurm"]) == 5
    assert "has no run on slurm" in capsys.readouterr().err

"""What happens to a run whose sbatch answers with something else than a job's id, without a Slurm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from launcher.cli import main

if TYPE_CHECKING:
    from pathlib import Path

JOB = "name: a\ncluster: here.yaml\nworkload: ./a.py\nbatch: {micro: 1}\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, with programs of Slurm's names on PATH; sbatch writes down its script."""
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "a.py").write_text("")
    (tmp_path / "here.yaml").write_text("slots: 1\n")
    (tmp_path / "bin").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LAUNCHER_RUNS", raising=False)
    program(tmp_path, "srun", "")
    program(tmp_path, "scancel", f'echo "$*" >>{tmp_path}/cancelled')
    program(tmp_path, "squeue", f'[ -e {tmp_path}/script ] && echo "7|$(cat {tmp_path}/script)"; exit 0')
    return tmp_path


def program(site: Path, name: str, body: str) -> None:
    path = site / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def sbatch(site: Path, answer: str, code: int = 0, taken: bool = True) -> None:
    keep = f'for script; do :; done; echo "$script" >{site}/script; ' if taken else ""
    program(site, "sbatch", f"{keep}{answer}; exit {code}")


def runs(site: Path) -> list[str]:
    return sorted(path.name for path in (site / "runs").glob("a-*"))


@pytest.mark.parametrize(
    "answer", ["echo Submitted batch job 7", "echo 7", "echo '7;here'", "echo welcome; echo 7"]
)
def test_answers_with_an_id(site: Path, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    sbatch(site, answer)
    assert main.main(["slurm", "job.yaml"]) == 0
    assert "submitted to slurm (7)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("true", 0),
        ("echo thank you", 0),
        ("echo sbatch: error: Batch job submission failed: Socket timed out on send/recv operation >&2", 1),
    ],
)
def test_a_job_that_was_taken_is_found_by_its_script(
    site: Path, answer: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch(site, answer, code)
    assert main.main(["slurm", "job.yaml"]) == 0
    assert "submitted to slurm (7)" in capsys.readouterr().err


@pytest.mark.parametrize("squeue", ["exit 0", "echo slurm_load_jobs error >&2; exit 1"])
def test_a_job_that_cannot_be_found_keeps_its_folder(
    site: Path, squeue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch(site, "echo thank you")
    program(site, "squeue", squeue)
    assert main.main(["slurm", "job.yaml"]) == 4
    (run,) = runs(site)
    said = capsys.readouterr().err
    assert "sbatch's answer names no job: 'thank you'" in said
    assert f"its folder is kept: {site}/runs/{run}; look for it with `squeue --me --name={run}`" in said


def test_a_sweep_that_cannot_be_found_keeps_its_folders(site: Path) -> None:
    sbatch(site, "echo thank you")
    program(site, "squeue", "exit 0")
    assert main.main(["slurm", "job.yaml", "--sweep", "env.A=1,2"]) == 4
    assert len(runs(site)) >= 2


def test_a_refused_job_leaves_nothing(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sbatch(site, "echo sbatch: error: invalid partition specified: x >&2", 1, taken=False)
    assert main.main(["slurm", "job.yaml"]) == 4
    assert capsys.readouterr().err.endswith("error: sbatch: error: invalid partition specified: x\n")
    assert runs(site) == []


def test_an_interrupted_submission_is_taken_back(site: Path) -> None:
    sbatch(site, "kill -INT $PPID; sleep 1; echo Submitted batch job 7")
    assert main.main(["slurm", "job.yaml"]) == 130
    assert (site / "cancelled").read_text() == "7\n"
    assert runs(site) == []


def test_srun_is_needed_as_well(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{site}/bin")
    sbatch(site, "echo Submitted batch job 7")
    (site / "bin" / "srun").unlink()
    assert main.main(["slurm", "job.yaml"]) == 6
    assert "srun is not on this machine's PATH" in capsys.readouterr().err
    assert runs(site) == []

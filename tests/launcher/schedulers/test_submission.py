"""What happens to a run whose sbatch answers with something else than a job's id, without a Slurm."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.errors import SubmitError
from launcher.runs import folders, record
from launcher.schedulers.slurm import exported
from launcher.submission import submit

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


def taken(site: Path) -> list[list[str]]:
    """The options of every call of sbatch, which answers with 7, 8, …; squeue and sacct know of none."""
    calls = site / "calls"
    body = f'echo "$@" >>{calls}; echo Submitted batch job $((6 + $(wc -l <{calls})))'
    program(site, "sbatch", body)
    program(site, "squeue", "exit 0")
    return [line.split() for line in calls.read_text().splitlines()] if calls.exists() else []


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left"), 2)])
def test_an_array_that_cannot_be_recorded_is_cancelled(
    site: Path, error: BaseException, code: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its elements would run without anybody who can see or cancel them."""
    taken(site)
    write, numbers = record.record, itertools.count(1)

    def interrupted(*words: Any) -> Any:
        if next(numbers) == number:
            raise error
        return write(*words)

    monkeypatch.setattr(record, "record", interrupted)
    assert main.main(["slurm", "job.yaml", "--sweep", "env.A=1,2,3"]) == code
    assert (site / "cancelled").read_text() == "7\n"
    assert runs(site) == []


def test_an_array_that_is_in_the_queue_keeps_its_folders(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken(site)
    program(site, "scancel", "echo 'Kill job error' >&2; exit 1")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "record", interrupted)
    assert main.main(["slurm", "job.yaml", "--sweep", "env.A=1,2,3"]) == 4
    assert "array 7 is in the queue; cancel it: scancel 7" in capsys.readouterr().err
    assert len(runs(site)) >= 3


def ended(site: Path, run: str, code: int) -> None:
    (site / "runs" / run / "exit_code").write_text(f"{code}\n")


def test_who_is_resumed_waits_for_whom_it_waited(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also when that was resumed itself since, and has another job id."""
    taken(site)
    assert main.main(["slurm", "job.yaml"]) == 0
    (first,) = runs(site)
    program(site, "squeue", 'case "$*" in *7*) echo "7|RUNNING|N/A|None" ;; esac')
    assert main.main(["slurm", "job.yaml", "--after", first, "--name", "b"]) == 0
    second = next(name for name in runs(site) if name != first)
    taken(site)
    ended(site, first, 75)
    (site / "runs" / second / "cancelled").touch()
    capsys.readouterr()
    assert main.main(["resume", second]) == 3
    assert (
        f"{second} runs after {first}: it has failed; `python -m launcher resume {first}` first, or add --now"
        in (capsys.readouterr().err)
    )
    assert main.main(["resume", second, "--now"]) == 0
    assert not any(word.startswith("--dependency") for word in taken(site)[-1])
    ended(site, second, 75)
    assert main.main(["resume", first]) == 0
    program(site, "squeue", 'case "$*" in *10*) echo "10|RUNNING|N/A|None" ;; esac')
    assert main.main(["resume", second]) == 0
    *_, before, last = taken(site)
    assert not any(word.startswith("--dependency") for word in before)
    assert "--dependency=afterok:10" in last
    ended(site, first, 0)
    ended(site, second, 75)
    assert main.main(["resume", second]) == 0
    assert not any(word.startswith("--dependency") for word in taken(site)[-1]), (
        "there is nothing to wait for"
    )


def test_stages_that_wait_for_a_job_that_has_ended_are_resumed_with_it(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm takes a while until it cancels what waits for a failed job."""
    taken(site)
    text = "name: chain\npipeline:\n  a: {job: job.yaml}\n  b: {job: job.yaml, set: {env.FROM: $a}}\n"
    (site / "chain.yaml").write_text(text)
    assert main.main(["slurm", "chain.yaml"]) == 0
    waits = 'case "$*" in *8*) grep -q 8 cancelled || echo "8|PENDING|N/A|DependencyNeverSatisfied" ;; esac'
    program(site, "squeue", f"cd {site}; touch cancelled; {waits}")
    stages = json.loads((site / "runs" / "chain-pipeline-1" / "pipeline.json").read_text())["stages"]
    ended(site, stages[0]["run"], 1)
    capsys.readouterr()
    assert main.main(["resume", "chain-pipeline-1"]) == 0
    said = capsys.readouterr().err
    assert "resumed as 9 (before: 7)" in said
    assert "resumed as 10 (before: 8)" in said
    assert (site / "cancelled").read_text() == "8\n"
    assert "--dependency=afterok:9" in taken(site)[-1]


def test_two_cannot_resume_a_run_at_once(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken(site)
    assert main.main(["slurm", "job.yaml"]) == 0
    (run,) = runs(site)
    ended(site, run, 75)
    with folders.alone(site / "runs" / run) as is_ours:
        assert is_ours
        assert main.main(["resume", run]) == 4
    assert f"{run} is being submitted by another command" in capsys.readouterr().err
    assert len(taken(site)) == 1
    stale = record.find(site / "runs", run)
    assert main.main(["resume", run]) == 0
    program(site, "squeue", 'case "$*" in *8*) echo "8|RUNNING|N/A|None" ;; esac')
    with pytest.raises(SubmitError, match="is running"):
        submit.resume(stale, ())  # by a command that looked before


def test_a_resumed_job_that_cannot_be_recorded_is_cancelled(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken(site)
    assert main.main(["slurm", "job.yaml"]) == 0
    (run,) = runs(site)
    ended(site, run, 75)
    program(site, "squeue", 'case "$*" in *8*) echo "8|PENDING|N/A|None" ;; esac')

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record, "record", interrupted)
        assert main.main(["resume", run]) == 130
    assert (site / "cancelled").read_text() == "8\n"
    assert record.find(site / "runs", run).native_id == "7"
    assert (site / "runs" / run / "exit_code").read_text() == "75\n"


@pytest.mark.parametrize(
    ("answer", "stays"),
    [("Kill job error on job id 7: Access/permission denied", False), ("Socket timed out", True)],
)
def test_a_cancel_that_slurm_refused_leaves_no_trace(site: Path, answer: str, stays: bool) -> None:
    """One whose answer was lost may have been heard, and a second one forgets nothing of the first."""
    taken(site)
    assert main.main(["slurm", "job.yaml"]) == 0
    (run,) = runs(site)
    program(site, "squeue", 'echo "7|RUNNING|N/A|None"')
    program(site, "scancel", f"echo 'scancel: error: {answer}' >&2; exit 1")
    mark = site / "runs" / run / "cancelled"
    assert main.main(["cancel", run]) == 4
    assert mark.exists() == stays
    program(site, "scancel", "exit 0")
    assert main.main(["cancel", run]) == 0
    program(site, "scancel", f"echo 'scancel: error: {answer}' >&2; exit 1")
    assert main.main(["cancel", run]) == 4
    assert mark.read_text() == "7\n"


def test_what_a_wrapper_says_before_the_answer_is_not_the_answer(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch(site, "echo 'checking job 1 of 1: ok'; echo Submitted batch job 7 on cluster here")
    assert main.main(["slurm", "job.yaml"]) == 0
    assert "submitted to slurm (7)" in capsys.readouterr().err


SBATCH = "#!/bin/bash\n#SBATCH --partition=gpu\n#SBATCH --time=1:00:00\n#SBATCH --gpus-per-node=8\n#SBATCH --mem=0\n"


@pytest.mark.parametrize(
    ("variables", "hidden"),
    [
        ("SBATCH_PARTITION SBATCH_TIMELIMIT SBATCH_ACCOUNT SBATCH_QOS", "SBATCH_PARTITION SBATCH_TIMELIMIT"),
        ("SBATCH_ARRAY_INX SBATCH_NO_REQUEUE SBATCH_REQUEUE SBATCH_WAIT", "all"),
        ("SBATCH_CLUSTERS SBATCH_CONTAINER SBATCH_EXPORT SBATCH_GET_USER_ENV", "all"),
        ("SBATCH_GRES SBATCH_GPUS SBATCH_MEM_PER_CPU SBATCH_MEM_PER_NODE", "all"),
        ("SBATCH_CONSTRAINT SBATCH_RESERVATION SBATCHES SLURM_CPU_BIND SLURM_MEM_PER_CPU HOME", ""),
        (
            "SLURM_JOB_ID SLURM_CPU_BIND SLURM_MEM_PER_CPU SLURM_NTASKS_PER_GPU SRUN_DEBUG SLURMD_NODENAME",
            "all",
        ),
        ("SLURM_JOB_ID SLURM_CONF SLURM_TIME_FORMAT SLURM_CLUSTERS SBATCH_ACCOUNT PATH", "SLURM_JOB_ID"),
    ],
)
def test_variables_that_sbatch_does_not_see(variables: str, hidden: str) -> None:
    expected = variables if hidden == "all" else hidden
    assert exported.kept_back(SBATCH, variables.split()) == sorted(expected.split())


def test_the_script_decides_and_not_the_shell(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the shell of an allocation, with a site's variables for jobs that are written by hand."""
    sbatch(site, f"env >{site}/seen; echo Submitted batch job 7")
    for name in (
        "SBATCH_TIMELIMIT",
        "SBATCH_NO_REQUEUE",
        "SBATCH_ACCOUNT",
        "SLURM_JOB_ID",
        "SLURM_NTASKS_PER_GPU",
    ):
        monkeypatch.setenv(name, "1")
    assert main.main(["slurm", "job.yaml"]) == 0
    seen = {line.partition("=")[0] for line in (site / "seen").read_text().splitlines()}
    assert {name for name in seen if name.startswith(("SBATCH_", "SLURM_"))} == {"SBATCH_ACCOUNT"}


def test_a_user_s_own_view_of_the_queue_hides_no_job(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sbatch(site, "echo Submitted batch job 7")
    assert main.main(["slurm", "job.yaml"]) == 0
    filtered = (
        '[ -n "$SQUEUE_PARTITION" ] || echo "7|PENDING|${SLURM_TIME_FORMAT:-2099-01-01T00:00:00}|Priority"'
    )
    program(site, "squeue", filtered)
    for name in ("SQUEUE_PARTITION", "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(name, "other")
    capsys.readouterr()
    assert main.main(["status", *runs(site)]) == 0
    said = capsys.readouterr().out
    assert "PENDING" in said
    assert "Slurm expects it to start at 2099-01-01" in said


def test_marks_of_slurm_s_own_in_the_folder_are_none(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`%j` is a job's number in a path for output: the logs would be in another folder."""
    sbatch(site, f'echo "$@" >{site}/words; echo Submitted batch job 7')
    monkeypatch.setenv("LAUNCHER_RUNS", f"{site}/%j")
    assert main.main(["slurm", "job.yaml"]) == 0
    assert f"--output={site}/%%j/a-" in (site / "words").read_text()
    (script,) = site.glob("%j/*/job.sh")
    assert '--output="${run//%/%%}/logs/node-%n.log"' in script.read_text()
    monkeypatch.setenv("LAUNCHER_RUNS", f"{site}/a\\b")
    assert main.main(["slurm", "job.yaml"]) == 3
    assert "has a backslash" in capsys.readouterr().err
    assert list(site.glob("a*b/a-*")) == []

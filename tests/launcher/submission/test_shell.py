"""`launcher shell` enters what a rank runs in: this machine, a container, a pod; and says why where it cannot."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.runs import record
from launcher.runs.status import Selection, Status
from launcher.schedulers import local
from launcher.submission import shell
from tests import samples
from tests.terminals import Terminal

SECRET = "hf_" + "notforanyoneseyes"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "LAUNCHER_RUNS": str(tmp_path / "it's here"), "HOME": str(tmp_path)}


def called(
    env: dict[str, str], *words: str, typed: str = "", code: int = 0
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *words],
        cwd=ROOT,
        env=env,
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


@pytest.mark.heavy
def test_beside_a_rank_on_this_machine(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".secrets").mkdir(mode=0o700)
    (tmp_path / ".secrets" / "hf-token").write_text(SECRET)
    (tmp_path / "own.py").write_text("import time; print('ready', flush=True); time.sleep(600)")
    settings = (f"workload={tmp_path}/own.py", "args={}", "nodes=2", "batch={micro: 1}")
    secret = "env={HF_TOKEN: {secret: hf-token}}"
    words = [word for setting in (*settings, secret) for word in ("--set", setting)]
    name = called(env, "local", "jobs/quickstart.yaml", *words).stdout.strip()
    folder = tmp_path / "it's here" / name
    deadline = time.monotonic() + 60
    while not all(_ready(folder, rank) for rank in range(4)):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    typed = 'echo "$RANK $LOCAL_RANK $RUN_DIR ${#HF_TOKEN}"\n'
    assert called(env, "shell", name, "--rank", "3", typed=typed).stdout == f"3 1 {folder} {len(SECRET)}\n"
    assert called(env, "shell", name, "--host", "127.0.0.2", typed=typed).stdout.startswith("2 0 ")
    assert "its hosts: 127.0.0.1, 127.0.0.2" in called(env, "shell", name, "--host", "other", code=5).stderr
    assert "ranks are 0 to 3" in called(env, "shell", name, "--rank", "4", code=5).stderr

    terminal = Terminal([sys.executable, "-m", "launcher", "shell", name], env, ROOT)
    terminal.wait_for(r"\[rank 0 on [^]]+\]")
    terminal.type('echo "it is $RANK at $RUN_DIR"; tty')
    terminal.wait_for("it is 0 at " + str(folder))
    terminal.wait_for("/dev/pts/")
    terminal.type("exit 3")
    assert terminal.ended() == 3

    called(env, "cancel", name)
    said = called(env, "shell", name, code=4).stderr
    assert f"{name} has ended; `rerun` runs the same once more" in said
    assert SECRET not in "".join(
        path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()
    )


def _ready(folder: Path, rank: int) -> bool:
    log = folder / "logs" / f"rank-{rank}.log"
    return log.exists() and "ready" in log.read_text()


def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, **fields: Any) -> record.Run:
    """A run of `scheduler` on two hosts that says of itself that it runs."""
    decided = samples.decided({"nodes": 2}, image="registry.example.com/train:1", **fields)
    decided = decided._replace(workspace=decided.workspace._replace(runs=str(tmp_path)))
    reserved = record.reserve(decided)
    record.prepare(reserved, {})
    folder = Path(reserved.folder)
    (folder / "hostfile-77-0").write_text("gpu-1 slots=2\ngpu-2 slots=2\n")
    run = record.record(record.prepared(folder, scheduler), "7" if scheduler == "slurm" else "1:2", 1.0)
    monkeypatch.setattr("launcher.schedulers.statuses", lambda runs: [Status("RUNNING") for _ in runs])
    monkeypatch.setattr("launcher.submission.shell.shutil.which", lambda name: f"/usr/bin/{name}")
    return run


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ("none", []),
        ("pyxis", ["--container-image=registry.example.com#train:1"]),
        ("apptainer", ["apptainer", "exec"]),
    ],
)
def test_a_step_of_slurm_has_the_runs_container(
    runtime: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running(tmp_path, monkeypatch, "slurm", slurm={"container": runtime}, cpus=8)
    command = shell.words(run, Selection(rank=3), terminal=True)
    text = " ".join(command)
    # the job of the newest hostfile: an array's element is a job of its own
    assert text.startswith(
        "srun --jobid=77 --nodelist=gpu-2 --nodes=1 --ntasks=1 --cpus-per-task=8 --overlap --pty "
    )
    assert all(word in text for word in words)
    assert command[-2:] == [f"--folder={run.folder}", "--rank=3"]
    assert "--pty" not in shell.words(run, Selection(), terminal=False)


def test_a_step_of_slurm_from_the_shell_of_another_allocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun would ask for what that one has: memory and GPUs that the run's hosts may not have."""
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SLURM_CONF"):
        monkeypatch.setenv(name, "1")
    run = running(tmp_path, monkeypatch, "slurm")
    command = shell.words(run, Selection(), terminal=False)
    assert command[:4] == ["env", "--unset=SLURM_JOB_ID", "--unset=SLURM_MEM_PER_CPU", "srun"]


STANDIN = """#!/bin/sh
printf '%s\\n' "$*" | head -n 1 >>{log}
case $1 in
  ps) echo first; echo second ;;
  exec) case "$*" in
    *--probe) case "$*" in *" second "*|*"exec second"*) exit 0 ;; esac; exit 1 ;;
    *) echo "entered" ;;
  esac ;;
esac
"""


def standin(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    log = tmp_path / f"{name}.log"
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / name).write_text(STANDIN.format(log=shlex.quote(str(log))))
    (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return log


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_the_container_that_has_the_rank(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = standin(tmp_path, engine, monkeypatch)
    run = running(tmp_path, monkeypatch, "local", local={"container": engine})
    command = shell.words(run, Selection(rank=2), terminal=True)
    assert command[:5] == [engine, "exec", "-i", "-t", "second"]
    assert command[-2:] == [f"--folder={run.folder}", "--rank=2"]
    assert log.read_text().splitlines()[0] == f"ps --quiet --filter=label=launcher.run={run.id}"
    decided = samples.decided(local={"container": engine})
    assert f"--label=launcher.run={decided.id}" in local.render(decided)["job.sh"]


def test_a_run_that_waits_has_no_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    found = running(tmp_path, monkeypatch, "local")
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path))
    waiting = Status("PENDING", "waits for before-1")
    monkeypatch.setattr("launcher.schedulers.statuses", lambda runs: [waiting for _ in runs])
    assert main.main(["shell", found.id]) == 4
    assert f"{found.id} is pending: waits for before-1" in capsys.readouterr().err

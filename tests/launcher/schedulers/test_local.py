"""Runs on this machine through the command line: real DeepSpeed, several ranks, several hosts of the plan."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import types
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.files import load
from launcher.planning import plan
from launcher.runs import record
from launcher.schedulers import local
from launcher.submission import submit
from tests import commandline, samples

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
SHORT = (
    "args.max-steps=6",
    "args.log-every=1",
    "args.seq-length=64",
    "batch={micro: 2}",
    "checkpoint.every=3",
)


class User:
    """Somebody with a folder of runs, with a blank and a quote in its name."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "it's here"
        self.env = {**os.environ, "LAUNCHER_RUNS": str(self.runs), "HOME": str(folder)}

    def launcher(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return commandline.launcher(words, self.env, code)

    def local(self, *settings: str, wait: bool = True, code: int = 0) -> subprocess.CompletedProcess[str]:
        words = [w for s in settings for w in ("--set", s)]
        return self.launcher(
            "local", "jobs/quickstart.yaml", *(["--wait"] if wait else []), *words, code=code
        )

    def newest(self) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self.launcher("list", "--json").stdout)[0]
        return made

    def wait(self, until: Callable[[dict[str, Any]], bool], limit: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + limit
        while not until(now := self.newest()):
            assert now["state"] not in ENDED, now
            assert time.monotonic() < deadline, now
            time.sleep(0.2)
        return now

    def steps(self, run: str) -> list[int]:
        lines = (self.runs / run / "metrics.jsonl").read_text().splitlines()
        return [r["step"] for r in map(json.loads, lines) if "loss" in r and "event" not in r]


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


@pytest.mark.deepspeed
def test_two_hosts_of_two_ranks_train_and_are_resumed(user: User) -> None:
    done = user.local("nodes=2", *SHORT)
    run = user.newest()
    assert (run["state"], run["exit_code"]) == ("SUCCEEDED", 0)
    assert run["hosts"] == ["127.0.0.1", "127.0.0.2"]
    assert "loss" in done.stderr
    assert str(user.runs / run["id"] / "checkpoints" / "step-00000006") in done.stderr
    assert user.steps(run["id"]) == [1, 2, 3, 4, 5, 6]
    logged = user.launcher("logs", run["id"], "--host", "127.0.0.2").stdout
    assert "rank-2: --- attempt 0" in logged
    assert "rank-3: --- attempt 0" in logged

    user.local("nodes=2", *SHORT, "args.max-steps=8", f"checkpoint.resume={run['id']}")
    resumed = user.newest()["id"]
    assert resumed != run["id"]
    assert user.steps(resumed) == [7, 8]
    assert user.steps(run["id"]) == [1, 2, 3, 4, 5, 6], "the old run is only read"


@pytest.mark.deepspeed
def test_cancel_saves_and_a_second_run_has_its_own_folder(user: User) -> None:
    user.local(*SHORT, "args.max-steps=500", "args.step-delay=0.2", wait=False)
    run = user.wait(
        lambda now: (user.runs / now["id"] / "metrics.jsonl").exists() and bool(user.steps(now["id"]))
    )
    assert run["state"] == "RUNNING"
    said = user.launcher("cancel", run["id"][:12]).stderr
    assert f"{run['id']}: CANCELLED" in said
    events = (user.runs / run["id"] / "metrics.jsonl").read_text()
    assert '"event": "saved"' in events
    again = user.local(*SHORT, "args.max-steps=500", "args.step-delay=0.2", wait=False).stdout.strip()
    assert again == f"{run['id']}-2"
    user.launcher("cancel", again)


@pytest.mark.deepspeed
def test_the_first_failure_is_named(user: User) -> None:
    done = user.local(*SHORT, "args.fail-at-step=2", "args.fail-rank=1", "args.fail-code=7", code=1)
    assert user.newest()["exit_code"] == 7
    assert "FAILED" in user.launcher("cancel", user.newest()["id"]).stderr, "it had ended"
    assert "rank 1 on" in done.stderr
    assert "exit code 7" in done.stderr


def script(tmp_path: Path, text: str) -> tuple[str, ...]:
    """Settings that run `text` as a program of the user's own."""
    (tmp_path / "own.py").write_text(text)
    return (f"workload={tmp_path}/own.py", "args={}")


def test_a_program_of_ones_own(user: User, tmp_path: Path) -> None:
    text = (
        "from os import environ as e; print('rank', e['RANK'], 'of', e['WORLD_SIZE'], e['DEEPSPEED_CONFIG'])"
    )
    user.local(*script(tmp_path, text))
    run = user.newest()
    logged = user.launcher("logs", run["id"], "--rank", "1").stdout
    assert f"rank 1 of 2 {user.runs}/{run['id']}/ds_config.json" in logged


def test_a_lost_run_is_not_taken_for_a_living_one(user: User, tmp_path: Path) -> None:
    user.local(*script(tmp_path, "import time; time.sleep(600)"), wait=False)
    run = user.wait(lambda now: (user.runs / now["id"] / "logs" / "rank-1.log").exists())
    os.killpg(int(run["native_id"]), signal.SIGKILL)
    deadline = time.monotonic() + 120
    while user.newest()["state"] == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.1)
    now = user.newest()
    assert (now["state"], now["reason"]) == ("FAILED", "its process no longer exists and left no exit code")


def test_a_secret_comes_from_its_file_alone(user: User, tmp_path: Path) -> None:
    (tmp_path / ".secrets").mkdir()
    (tmp_path / ".secrets" / "hf-token").write_text("hf_not_for_eyes\n")
    settings = script(tmp_path, "import os; print(len(os.environ['HF_TOKEN']))")
    user.local(*settings, "env={HF_TOKEN: {secret: hf-token}}")
    run = user.newest()["id"]
    assert "15" in user.launcher("logs", run, "--rank", "0").stdout.splitlines()
    written = [p for p in (user.runs / run).rglob("*") if p.is_file()]
    assert all("hf_not_for_eyes" not in p.read_text(errors="replace") for p in written)
    user.local(*settings, "env={HF_TOKEN: {secret: absent}}", code=3)
    (tmp_path / ".secrets" / "absent").write_text("\n")
    user.local(*settings, "env={HF_TOKEN: {secret: absent}}", code=1)
    run = user.newest()["id"]
    assert "secret absent is missing" in user.launcher("logs", run).stdout
    told = user.launcher("status", run).stdout
    assert "a secret that the job names is not on this host" in told
    assert "evidence: secret absent is missing or empty: put it in ~/.secrets/absent, mode 0600" in told


def test_interrupted_wait_leaves_the_run(user: User, tmp_path: Path) -> None:
    words = [w for s in script(tmp_path, "import time; time.sleep(600)") for w in ("--set", s)]
    waiting = subprocess.Popen(
        [sys.executable, "-m", "launcher", "local", "jobs/quickstart.yaml", "--wait", *words],
        cwd=ROOT,
        env=user.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr
    before = next((line for line in waiting.stderr if "ranks are starting" in line), "")
    assert before, "it ended without waiting"
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 130
    assert "is still running\nfollow it: python -m launcher logs" in said
    run = user.newest()
    assert run["state"] == "RUNNING"
    user.launcher("cancel", run["id"])
    assert user.newest()["state"] == "CANCELLED"


def test_a_run_whose_folder_cannot_be_written_is_cancelled_all_the_same(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        run = record.Run("a", "local", local.native_id(process.pid), tmp_path / "gone", 0.0, 1, 1, {})
        local.cancel(run)
        assert process.wait(timeout=10) == -signal.SIGTERM


def test_a_job_that_cannot_be_recorded_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its folder would go, and nobody could name the job."""
    site = plan.Workspace(str(ROOT), str(tmp_path), sys.executable, "0123456789ab")
    loaded = load.Loaded(samples.job(), samples.cluster())
    cancelled: list[record.Run] = []
    scheduler: Any = types.SimpleNamespace(
        render=lambda _: {"job.sh": "true\n"}, submit=lambda *_: "77", cancel=cancelled.append
    )
    prepared = submit.prepare(scheduler, "slurm", plan.make(loaded, site))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record, "record", full)
    with pytest.raises(OSError, match="No space left"):
        submit.submit(scheduler, "slurm", prepared)
    assert [run.native_id for run in cancelled] == ["77"]

"""The job's variables as the node entry reads and hands them on (docker/environment.py)."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ending = importlib.import_module("ending")
environment = importlib.import_module("environment")


def written(folder: Path, entries_: object) -> Path:
    path = folder / "environment.json"
    path.write_text(entries_ if isinstance(entries_, str) else json.dumps(entries_))
    return path


def test_the_jobs_values_win_and_secrets_come_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_SECRET_0", "s3cret")
    monkeypatch.setenv("KEPT", "of the host")
    path = written(
        tmp_path,
        {
            "PATH": {"value": "/mine", "why": "from the job file"},
            "TOKEN": {"secret": "hf-token", "from": "LAUNCHER_SECRET_0"},
            "LAUNCHER_SECRET_1": {"value": "\udcff"},
        },
    )
    found = environment.inherited() | environment.of_job(path)
    assert (found["PATH"], found["TOKEN"], found["KEPT"]) == ("/mine", "s3cret", "of the host")
    assert "LAUNCHER_SECRET_0" not in found
    assert os.fsencode(found["LAUNCHER_SECRET_1"]) == b"\xff"
    assert environment.of_job(None) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "{path} cannot be read: No such file or directory"),
        ("", "{path} is not JSON with a value for each variable"),
        ("[]", "{path} is not JSON with a value for each variable"),
        ("[" * 100_000, "{path} is not JSON with a value for each variable"),
        ({"A": "1"}, "{path} is not JSON with a value for each variable"),
        ({"A": {"value": 1}}, "{path} is not JSON with a value for each variable"),
        ({"A": {"why": "x"}}, "{path} is not JSON with a value for each variable"),
        ({"A": {"secret": "x"}}, "{path} is not JSON with a value for each variable"),
        (
            {"A": {"secret": "x", "from": "LAUNCHER_SECRET_9"}},
            "secret x did not come to this host: LAUNCHER_SECRET_9 is not set",
        ),
    ],
)
def test_a_file_that_is_not_ours(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "environment.json" if content is None else written(tmp_path, content)
    with pytest.raises(ending.Stop) as stop:
        environment.of_job(path)
    assert (str(stop.value), stop.value.code) == (message.format(path=path), ending.BAD_INPUT)


LONG = {"LONG": {"value": "x" * environment.LONGEST}}
MANY = {f"X{number}": {"value": "x" * 100_000} for number in range(os.sysconf("SC_ARG_MAX") // 100_000 + 1)}
TOO_MUCH = [
    (
        LONG,
        f"variable LONG has {environment.LONGEST + 6:,} bytes, and Linux takes {environment.LONGEST:,} at most",
    ),
    (MANY, f"bytes together, and this host takes {os.sysconf('SC_ARG_MAX'):,} (a quarter of `ulimit -s`)"),
    ({"A": {"value": "a\0b"}}, "embedded null byte"),
]


@pytest.mark.parametrize(("content", "message"), TOO_MUCH, ids=["one", "together", "nul"])
def test_what_linux_does_not_take_ends_the_run_everywhere(
    content: object, message: str, new_job: Callable[..., entries.Job]
) -> None:
    job = new_job(hosts=2)
    path = written(job.folder, content)
    job.start(0, entries.SLEEP)
    job.start(1, entries.SLEEP, "--environment", str(path))
    assert job.codes() == [ending.BAD_INPUT] * 2
    (line,) = [line for line in job.said(1).splitlines() if "error" in line]
    assert line.startswith("node: error: the ranks cannot be started: ")
    assert message in line
    assert job.outcome()[0] == ending.BAD_INPUT


@pytest.mark.parametrize(("content", "message"), TOO_MUCH, ids=["one", "together", "nul"])
@pytest.mark.heavy
def test_preflight_says_it_too(content: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\n")
    words = ["--hostfile", f"{tmp_path}/hostfile", "--run", "x", "--folder", str(tmp_path)]
    own = ["--shm", "0", "--disk", "0", "--scratch", str(tmp_path)]
    done = subprocess.run(
        [
            *(sys.executable, str(entries.DOCKER / "preflight.py"), *own, "--", *words),
            *("--environment", str(written(tmp_path, content)), "--", "-c", "print()"),
        ],
        env={**entries.CLEAN, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=entries.LIMIT,
    )
    assert done.returncode == ending.BAD_INPUT, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_jobs_devices_count(new_job: Callable[..., entries.Job]) -> None:
    """DS_ACCELERATOR of a job decides whether its ranks need GPUs, not that of the host."""
    job = new_job(slots=2)
    path = written(job.folder, {"DS_ACCELERATOR": {"value": "cpu"}})
    job.start(0, "pass", "--environment", str(path), CUDA_VISIBLE_DEVICES="0", DS_ACCELERATOR="cuda")
    assert job.codes() == [0]


def test_a_run_whose_success_cannot_be_written_has_not_succeeded(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.start(0, entries.WAIT)
    job.ranks()
    (job.folder / "logs").rename(job.folder / "moved")
    moved = job.folder.with_name("elsewhere")
    job.folder.rename(moved)  # as a file system that was unmounted
    (moved / "go-on").touch()
    assert job.codes() == [ending.NOT_WRITABLE]
    assert f"{job.folder}/outcome-0 cannot be written: No such file" in (moved / "node-0.err").read_text()
    moved.rename(job.folder)

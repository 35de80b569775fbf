"""Tuning inside an allocation: real node entries on several hosts, whose ranks are small programs."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ending, halving, trial, tune = map(importlib.import_module, ("ending", "halving", "trial", "tune"))

RANK = """
import json, os, sys
given = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
folder, steps = given["run-dir"], int(given["max-steps"])
assert json.load(open(given["deepspeed-config"])) and given["checkpoint-keep"] == "0"
with open("started", "a") as file:
    file.write(f"{os.path.basename(folder)} {os.environ['RANK']}\\n")
def took(seconds):
    if os.environ["RANK"] == "0":
        with open(folder + "/metrics.jsonl", "a") as file:
            for step in range(1, steps + 1):
                line = {"step": step, "step_seconds": seconds, "memory_bytes": 5, "tokens_per_second": 1 / seconds}
                file.write(json.dumps(line) + "\\n")
"""
FULL = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); bytearray(2**34)"
WAITS = """
import time
while not os.path.exists("go-on"):
    open(f"ready-{os.environ['RANK']}", "w").close(); time.sleep(0.05)
took(0.1)
"""


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., entries.Job]]:
    with entries.jobs(tmp_path) as make:
        yield make


def candidate(name: str, program: str, micro: int = 1, bound: float | None = None) -> dict[str, Any]:
    words = ["-c", RANK + program]
    return {
        "name": name,
        "group": name,
        "micro": micro,
        "bound": bound,
        "less": [],
        "config": {"name": name},
        "words": words,
    }


def start(job: entries.Job, tried: list[dict[str, Any]]) -> None:
    """The node entry of each host, as a rendered script starts it."""
    job.write_hostfile()
    document = job.folder / "trials.json"
    document.write_text(json.dumps({"steps": 5, "limit": 600, "trials": tried}))
    inner = ["-m", "tune", f"--trials={document}", f"--folder={job.folder}", f"--run={job.run}"]
    for index in range(len(job.hosts)):
        own = [f"--hostfile={job.hostfile}", f"--run={job.run}", f"--folder={job.folder}", f"--node={index}"]
        words = [str(entries.DOCKER / "node.py"), *own, "--processes=host", "--names-from=5", "--stall=off"]
        with job.path(index, "out").open("ab") as out:
            job.entries[index] = subprocess.Popen(
                [sys.executable, *words, "--", *inner],
                cwd=job.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=entries.CLEAN,
            )


def results(job: entries.Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder / "trials.jsonl").read_text().splitlines()]


def test_a_trial_that_fails_is_a_result(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(slots=2)
    same = candidate("full", "took(0.01)", micro=2)
    start(
        job,
        [
            candidate("slow", "took(0.5)"),
            candidate("full", FULL),
            same,
            candidate("wrong", "print('no such thing'); sys.exit(3)"),
            candidate("fast", "took(0.25)"),
            candidate("hopeless", "took(0.01)", bound=0.4),
        ],
    )
    assert job.codes() == [0]
    found = {(r["name"], r["result"]): r for r in results(job)}
    assert list(found) == [
        ("slow", halving.DONE),
        ("full", halving.MEMORY),
        ("wrong", halving.FAILED),
        ("fast", halving.DONE),
    ]
    assert found["fast", halving.DONE]["step_seconds"] == 0.25
    assert found["fast", halving.DONE]["memory_bytes"] == 5
    assert "MemoryError" in found["full", halving.MEMORY]["why"]
    assert found["wrong", halving.FAILED]["why"] == "exit 3: no such thing"
    log = (job.folder / "logs/rank-0.log").read_text()
    assert "best: fast" in log
    assert [
        json.loads(line.removeprefix(tune.LINE)) for line in log.splitlines() if line.startswith(tune.LINE)
    ] == results(job)


def test_hosts_go_on_where_a_signal_cut_them_short(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=2)
    tried = [candidate("first", "took(0.2)"), candidate("second", WAITS)]
    start(job, tried)
    entries.until(
        lambda: all((job.folder / f"ready-{rank}").exists() for rank in (0, 1)), "the second trial runs"
    )
    for entry in job.entries.values():
        entry.send_signal(signal.SIGTERM)
    assert job.codes() == [75, 75]
    assert [r["name"] for r in results(job)] == ["first"]
    job.go_on()
    start(job, tried)
    assert job.codes() == [0, 0]
    assert [(r["name"], r["result"]) for r in results(job)] == [("first", "done"), ("second", "done")]
    started = (job.folder / "started").read_text().split("\n")[:-1]
    assert sorted(started) == ["0-5 0", "0-5 1", *["1-5 0"] * 2, *["1-5 1"] * 2]
    assert len((job.folder / "trials/1-5/metrics.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("index", [0, 1])
def test_a_folder_that_cannot_be_written_is_told_by_any_host(
    index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "trials/0-5")

    told = list[dict[str, Any]]()
    peers = SimpleNamespace(port=1, tell=lambda **message: told.append(message))
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    (tmp_path / "trials.json").write_text(json.dumps({"steps": 5, "limit": 1, "trials": []}))
    monkeypatch.setenv("HOSTFILE", str(tmp_path / "hostfile"))
    monkeypatch.setenv("NODE_RANK", str(index))
    monkeypatch.setenv("DATA_CACHE", "/data")
    monkeypatch.setattr(tune.signal, "signal", lambda *_: None)
    monkeypatch.setattr(tune.rendezvous, "meet", lambda *_, **__: peers)
    monkeypatch.setattr(tune, "follow" if index else "lead", full)
    args = SimpleNamespace(trials=tmp_path / "trials.json", folder=tmp_path, run="demo")
    with pytest.raises(ending.Stop, match="trials/0-5: No space left on device") as stop:
        tune.run(args)
    assert stop.value.code == ending.NOT_WRITABLE
    assert told == ([] if index else [{"type": "go", "port": 1}, {"type": "end", "code": 73}])


def test_a_run_of_which_nothing_works_has_failed(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    start(job, [candidate("wrong", "sys.exit(3)")])
    assert job.codes() == [1]
    assert "no configuration worked" in (job.folder / "logs/rank-0.log").read_text()


@pytest.mark.heavy
def test_a_trial_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\n")
    for name in entries.SCHEDULER:
        monkeypatch.delenv(name, raising=False)
    host = trial.Host(tmp_path, "demo", tmp_path / "hostfile", 0)
    order = trial.Order("0-5", {"a": 1}, ["-c", "import time; time.sleep(600)"], 5, limit=1.0)
    ended = host.attempt(order)
    assert ended.late
    assert tune.judged([ended], None)[0] == halving.LATE
    host.stop(signal.SIGTERM, None)
    assert host.attempt(order).code == 75


@pytest.mark.parametrize(
    ("ends", "seconds", "result"),
    [
        ([(0,)], 1.0, "done"),
        ([(0,)], None, "failed"),
        ([(1,), (1, False, True, "CUDA out of memory")], None, "out of memory"),
        ([(137,)], None, "out of memory"),
        ([(72,), (72,)], None, "hung"),
        ([(70,), (143, True)], None, "time limit"),
        ([(2, False, False, "Traceback")], None, "failed"),
    ],
)
def test_how_a_trial_ended(ends: list[Any], seconds: float | None, result: str) -> None:
    assert tune.judged([trial.Ended(*end) for end in ends], seconds)[0] == result


def test_lines_that_are_none_are_passed_over(tmp_path: Path) -> None:
    document = {"steps": 5, "limit": 1, "trials": [candidate("a", "")]}
    good = {"trial": 0, "steps": 5, "result": "done", "step_seconds": 0.5}
    lines = [json.dumps(good), "[]", '{"trial": 7, "steps": 5, "result": "done", "step_seconds": 1}', '{"tri']
    (tmp_path / "trials.jsonl").write_text("\n".join(lines))
    own = tune.Tuning(document, tmp_path)
    own.read()
    assert own.results == [halving.Result(0, 5, "done", 0.5)]


def test_trials_share_what_they_tokenize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_CACHE", "/data/tokens")
    trial.environment(tmp_path)
    assert os.environ["DATA_CACHE"] == "/data/tokens"
    monkeypatch.delenv("DATA_CACHE")
    trial.environment(tmp_path)
    assert os.environ["DATA_CACHE"] == str(tmp_path / "data")
    monkeypatch.delenv("DATA_CACHE")

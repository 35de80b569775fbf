"""events.jsonl, told by the first host's node entry and preflight (docker/events.py)."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ending = importlib.import_module("ending")
events = importlib.import_module("events")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / events.FILE).read_text().splitlines()]


def told(folder: Path) -> list[str]:
    return [line["event"] for line in lines(folder)]


def test_only_the_first_host_tells(tmp_path: Path) -> None:
    events.of(tmp_path, 1, "7-0").tell("met")
    events.Events().failed(ending.Failure(1, 0, "n1"))
    assert list(tmp_path.iterdir()) == []
    events.of(tmp_path, 0, "7-0").tell("allocated", 12.5, hosts=2)
    assert lines(tmp_path) == [{"event": "allocated", "time": 12.5, "attempt": "7-0", "hosts": 2}]


def test_a_line_that_was_cut_off_stays_apart(tmp_path: Path) -> None:
    (tmp_path / events.FILE).write_text('{"event": "al')
    events.of(tmp_path, 0, "0").tell("met")
    cut, whole = (tmp_path / events.FILE).read_text().splitlines()
    assert (cut, json.loads(whole)["event"]) == ('{"event": "al', "met")


def test_nothing_depends_on_the_file(tmp_path: Path) -> None:
    (tmp_path / events.FILE).mkdir()
    events.of(tmp_path, 0, "0").tell("met")
    events.of(tmp_path / "gone", 0, "0").tell("met")


@pytest.mark.parametrize(
    ("given", "known"), [("1795654181", 1795654181.0), ("", 5.0), ("soon", 5.0), ("٣", 5.0)]
)
def test_since_when_the_hosts_are_the_runs(given: str, known: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_START_TIME", given)
    monkeypatch.setattr("time.time", lambda: 5.0)
    assert events.allocated() == known


def test_a_run_that_fails_and_one_that_went_well(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=2)
    job.start_all("import os, sys; sys.exit(3 * int(os.environ['RANK']))", SLURM_JOB_START_TIME="17")
    assert job.codes() == [3, 3]
    failed = lines(job.folder)
    assert [line["event"] for line in failed] == ["allocated", "met", "started", "failed", "ended"]
    assert failed[0] == {"event": "allocated", "time": 17.0, "attempt": "0", "hosts": 2, "slots": 2}
    assert {key: failed[3][key] for key in ("code", "rank", "host")} == {
        "code": 3,
        "rank": 1,
        "host": "127.0.0.2",
    }
    assert failed[4]["code"] == 3
    assert [line["time"] for line in failed] == sorted(line["time"] for line in failed)
    job.start_all("pass", "--attempt", "1")
    assert job.codes() == [0, 0]
    again = lines(job.folder)[5:]
    assert [(line["event"], line["attempt"]) for line in again] == [
        ("allocated", "1"),
        ("met", "1"),
        ("started", "1"),
        ("ended", "1"),
    ]


def test_a_rank_that_saved_and_left_has_not_failed(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.start(0, "import sys; sys.exit(75)")
    assert job.codes() == [75]
    assert told(job.folder)[3:] == ["saved", "ended"]


def test_a_node_entry_that_stops_before_its_ranks_tells_its_end(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(slots=2)
    job.start(0, "pass", CUDA_VISIBLE_DEVICES="0")
    assert job.codes() == [ending.BAD_INPUT]
    assert told(job.folder) == ["allocated", "ended"]


def test_preflight_tells_the_start_and_the_node_entry_does_not_again(tmp_path: Path) -> None:
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=1\n")
    entry = ["--hostfile", f"{tmp_path}/hostfile", "--run", tmp_path.name, "--folder", str(tmp_path)]
    words = [sys.executable, str(entries.DOCKER / "preflight.py"), "--scratch", str(tmp_path)]
    for disk, code, kinds in (
        ("0", 0, ["allocated", "preflight", "met", "started", "ended"]),
        ("1e9", ending.UNFIT, ["allocated", "preflight", "ended"]),
    ):
        (tmp_path / events.FILE).unlink(missing_ok=True)
        command = [*words, "--disk", disk, "--shm", "0", "--", *entry, "--", "-c", "pass"]
        done = subprocess.run(
            command, env={**entries.CLEAN, "DS_ACCELERATOR": "cpu"}, capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        assert told(tmp_path) == kinds
        assert lines(tmp_path)[-1]["code"] == code


def test_an_attempt_inside_a_job_begins_when_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1700000000")
    told_by = events.of(tmp_path, 0, "7-1")
    events.begin(told_by, 4, 8)
    events.begin(told_by, 4, 8, spares=1, since=1700000900.0)
    first, second = (
        {k: v for k, v in line.items() if k not in ("event", "attempt")} for line in lines(tmp_path)
    )
    assert first == {"time": 1700000000.0, "hosts": 4, "slots": 32}
    assert second == {"time": 1700000900.0, "hosts": 4, "slots": 32, "spare_slots": 8}

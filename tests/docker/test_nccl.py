"""What the node entry takes from NCCL's log files (docker/nccl.py); the ranks write them as NCCL 2.28 does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.runs import causes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.docker import entries

logs = importlib.import_module("logs")
nccl = importlib.import_module("nccl")

# NCCL writes where NCCL_DEBUG_FILE says, %p being the process, what NCCL_DEBUG allows.
RANK = """
import os, sys
host = "gpu01"
def nccl(level, words):
    path = os.environ.get("NCCL_DEBUG_FILE")
    out = open(path.replace("%p", str(os.getpid())), "a") if path else sys.stdout
    if level == "WARN" or os.environ["NCCL_DEBUG"] == "INFO":
        print(f"{host}:{os.getpid()}:{os.getpid()} [0] NCCL {level} {words}", file=out)
nccl("INFO", "Bootstrap: Using eth0:10.0.0.1<0>")
for _ in range(3):  # a communicator each
    nccl("INFO", "Using network Socket")
    for channel in range(16):
        nccl("INFO", f"Channel {channel:02d}/0 : 0[0] -> 1[1] [send] via NET/Socket/0")
nccl("WARN", "Call to connect timed out")
print("level", os.environ["NCCL_DEBUG"], os.environ.get("NCCL_DEBUG_SUBSYS"), flush=True)
"""


def text(job: entries.Job, rank: int) -> str:
    return job.log(rank).decode()


def said(job: entries.Job, rank: int) -> list[str]:
    return [line.partition("[0] ")[2] for line in text(job, rank).splitlines() if " NCCL " in line]


def test_the_network_and_every_warning_are_in_the_ranks_log(
    new_job: Callable[..., entries.Job], tmp_path: Path
) -> None:
    job, scratch = new_job(slots=2), tmp_path / "scratch"
    job.start(0, RANK, "--scratch", str(scratch), NCCL_DEBUG="WARN")
    assert job.codes() == [0], job.said(0)
    for rank in range(2):
        assert said(job, rank) == ["NCCL INFO Using network Socket", "NCCL WARN Call to connect timed out"]
        assert "level INFO INIT,NET" in text(job, rank)
    assert [cause.name for cause in causes.search(text(job, 0).splitlines(), True)] == ["NCCL on sockets"]
    assert not list(scratch.glob("nccl-*"))
    assert not list(job.folder.glob("logs/nccl-*"))


def test_a_run_that_fails_keeps_all_that_nccl_said(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.start(0, f"{RANK}\nsys.exit(3)", NCCL_DEBUG="WARN")
    assert job.codes() == [3]
    (kept,) = job.folder.glob("logs/nccl-127.0.0.1/*.log")
    assert kept.read_text().count("via NET/Socket/0") == 48


def test_what_the_job_sets_itself_stands(new_job: Callable[..., entries.Job]) -> None:
    for variables in (
        {"NCCL_DEBUG": "INFO"},
        {"NCCL_DEBUG": "WARN", "NCCL_DEBUG_SUBSYS": "ENV"},
        {"NCCL_DEBUG": "WARN", "NCCL_DEBUG_FILE": "/dev/stdout"},
    ):
        job = new_job()
        job.start(0, RANK, **dict[str, Any](variables))
        assert job.codes() == [0], job.said(0)
        level = variables["NCCL_DEBUG"], variables.get("NCCL_DEBUG_SUBSYS")
        assert f"level {level[0]} {level[1]}" in text(job, 0)


def test_processes_that_a_rank_starts_are_told_in_its_hosts_first_log(
    new_job: Callable[..., entries.Job],
) -> None:
    job = new_job()
    job.start(
        0, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {RANK!r}])", NCCL_DEBUG="WARN"
    )
    assert job.codes() == [0], job.said(0)
    assert "NCCL INFO Using network Socket" in said(job, 0)


def test_a_disk_without_room_costs_no_run() -> None:
    with nccl.notes({"NCCL_DEBUG": "WARN"}, Path("/proc/nope")) as notes:
        assert notes is None


def test_a_line_is_added_between_two_of_the_ranks_own(tmp_path: Path) -> None:
    log = logs.Log(tmp_path, 1, "0")
    for write, lines in (
        (log.write, b"a"),
        (log.add, b"1\n"),
        (log.write, b"b"),
        (log.write, b"c\nd"),
        (log.write, b"\n"),
        (log.add, b"2\n"),
        (log.write, b"e"),
        (log.add, b"3\n"),
    ):
        write(lines)
    log.close()
    assert (tmp_path / "rank-1.log").read_bytes() == b"abc\n1\nd\n2\ne\n3\n"


def test_a_log_that_is_closed_writes_into_no_other_file(tmp_path: Path) -> None:
    log = logs.Log(tmp_path, 0, "all")
    log.close()
    other = tmp_path / "other"
    with other.open("wb"):  # gets the number of the file that was closed
        log.write(b"late words of an orphan")
    assert other.read_bytes() == b""

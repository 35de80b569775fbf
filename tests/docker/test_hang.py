"""Runs that hang, for real: two hosts, two ranks each, whose torch.distributed is a file of the test of that name.

What is expected is what the issue of every launcher asks for: the right rank, the right line, and the end.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import ending
import hang
import heartbeat
import pytest
import ranks
import watch
from links import Peers

from tests.docker import entries, test_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.heavy
STALL = 4  # seconds; what stacks and answers take is far less than twice as long

# A collective that ends once a file of every rank is there, as all ranks' parts of one would be.
COLLECTIVE = """
import os, time
from pathlib import Path
def all_reduce(name):
    Path(f"{name}-{os.environ['RANK']}").touch()
    while not all(Path(f"{name}-{rank}").exists() for rank in range(int(os.environ["WORLD_SIZE"]))):
        _wait()
def barrier():
    while True:
        _wait()
def _wait():
    time.sleep(0.02)
"""
PROGRAM = """
import ctypes, os, sys, time
from torch.distributed.distributed_c10d import all_reduce, barrier
import workloads
rank, kind = int(os.environ["RANK"]), sys.argv[1]
def sleep():
    time.sleep(600)
def stop():
    os.kill(os.getpid(), 19)
def other():
    barrier()
def fifo():
    open("fifo").read()
def loop():
    sum(range(10**13))
def kernel():
    libc = ctypes.CDLL(None)
    if libc.vfork() == 0:  # whose parent cannot be interrupted until the child has gone: as in a call of a dead NFS
        while True:
            libc.pause()
def slow():
    pass
for step in range(1, 10**6):
    if step == 3 and rank == 1:
        globals()[kind]()
    all_reduce(f"step{step}")
    workloads.heartbeat(step)
    if kind == "slow":
        time.sleep(1)
"""


def lines_of(kind: str) -> int:
    """The line of the program at which rank 1 hangs."""
    return PROGRAM.splitlines().index(f"def {kind}():") + 2


@pytest.fixture
def job(new_job: Callable[..., entries.Job]) -> entries.Job:
    job = new_job(hosts=2, slots=2)
    package = job.folder / "torch" / "distributed"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "distributed_c10d.py").write_text(COLLECTIVE)
    (job.folder / "train.py").write_text(PROGRAM)
    os.mkfifo(job.folder / "fifo")
    return job


def start(job: entries.Job, kind: str, *options: str) -> None:
    run = "import sys, runpy; sys.path.insert(0, '.'); "
    run += f"sys.argv = ['train.py', {kind!r}]; runpy.run_path('train.py')"
    job.start_all(run, *options, grace=0.5)


def verdict(job: entries.Job) -> dict[str, Any]:
    (file,) = sorted((job.folder / "stacks").glob("0-*/verdict.json"))[-1:]
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("sleep", "rank 1 on 127.0.0.1 sleeps (train.py:{line}, step 3)"),
        ("stop", "rank 1 on 127.0.0.1 is stopped (SIGSTOP) (step 3)"),
        ("other", "rank 1 on 127.0.0.1 waits in barrier (train.py:{line}, step 3)"),
        ("fifo", "rank 1 on 127.0.0.1 is reading or writing a file (train.py:{line}, step 3)"),
        ("loop", "rank 1 on 127.0.0.1 is in loop (train.py:{line}, step 3)"),
        ("kernel", "rank 1 on 127.0.0.1 hangs in the kernel"),
    ],
)
def test_a_hang_is_explained_and_ended(kind: str, words: str, job: entries.Job) -> None:
    start(job, kind, f"--stall={STALL}")
    assert job.codes() == [ending.STALLED, ending.STALLED]
    assert job.outcome() == (ending.STALLED, 1, "127.0.0.1")
    found = verdict(job)
    line = line_of(PROGRAM, "    all_reduce(")
    assert f"3 of 4 ranks wait in all_reduce (train.py:{line}, step 3)" in found["verdict"]
    assert words.format(line=lines_of(kind)) in found["verdict"]
    assert found["of_host"] == (kind in {"stop", "kernel"})
    assert found["limit"] == STALL <= found["silent"] <= 3 * STALL
    assert (job.folder / "unfit-0").exists() == found["of_host"]
    assert [record["rank"] for record in found["ranks"]] == [0, 1, 2, 3]
    assert re.search(r"node: stalled for \d+ s: ", job.said(0))
    assert (job.folder / "again-0").exists()
    pids = [record["pid"] for record in found["ranks"]]
    entries.until(lambda: not any(map(entries.lives, pids)), "no rank is left")


# Neither imports anything of ours, nor is started as a rank: a shell starts it.
OWN = """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
def load(step):
    if step == 3 and dist.get_rank() == 1:
        open("fifo").read()
for step in range(1, 10**6):
    load(step)
    dist.all_reduce(torch.ones(1))
    print("step", step, flush=True)
"""


def own(job: entries.Job, script: str, *options: str) -> list[int]:
    """The exit codes of both hosts, whose ranks are a script of the shell."""
    for index in range(2):
        words = ["sh", "-c", script]
        told = ("--program", "--names-from=3", *options)
        test_program.start(job, index, *told, words=words, GLOO_SOCKET_IFNAME="lo")
    return job.codes()


def line_of(program: str, words: str) -> int:
    return next(number for number, text in enumerate(program.splitlines(), 1) if words in text)


def test_a_program_of_ones_own_is_explained_as_well(new_job: Callable[..., entries.Job]) -> None:
    """Real ranks of torch.distributed below a shell, one of which never comes."""
    job = new_job(hosts=2)
    os.mkfifo(job.folder / "fifo")
    (job.folder / "train.py").write_text(OWN)
    codes = own(job, "python train.py || exit 3", "--stall=30")
    assert codes == [ending.STALLED, ending.STALLED], job.said(0)
    assert job.outcome() == (ending.STALLED, 1, "127.0.0.2")
    found, reads, waits = verdict(job), line_of(OWN, "fifo"), line_of(OWN, "all_reduce")
    assert found["verdict"] == (
        f"rank 0 on 127.0.0.1 waits in all_reduce (train.py:{waits}); "
        f"rank 1 on 127.0.0.2 is reading or writing a file (train.py:{reads})"
    )
    for rank in found["ranks"]:
        assert rank["program"].startswith("python")
        assert not entries.lives(rank["pid"])
        assert (
            "in <module>" in (job.folder / "stacks" / found["name"] / f"rank-{rank['rank']}.txt").read_text()
        )


def test_a_program_that_is_no_python_is_named(new_job: Callable[..., entries.Job]) -> None:
    """Of a shell's script that is what it waits for."""
    job = new_job(hosts=2)
    os.mkfifo(job.folder / "fifo")
    assert own(job, "echo step 1; cat fifo; exit 3", f"--stall={STALL}") == [ending.STALLED] * 2
    assert "all 2 ranks show no Python stack (cat)" in verdict(job)["verdict"]
    assert "it is no Python" in verdict(job)["ranks"][0]["why"]
    assert not any(entries.lives(rank["pid"]) for rank in verdict(job)["ranks"])


def test_a_run_that_advances_is_asked_and_goes_on(job: entries.Job) -> None:
    """`launcher stacks`: a file beside the records of the first host's ranks."""
    scratch = job.folder / "scratch"
    scratch.mkdir()
    start(job, "slow", f"--scratch={scratch}", "--stall=600")
    records = entries_of(scratch)
    (records / watch.ASKED).touch()
    entries.until(lambda: (records / watch.ANSWER).exists(), "it is answered")
    found = json.loads((records / watch.ANSWER).read_text())
    assert found["cause"] == "asked"
    assert [record["rank"] for record in found["ranks"]] == [0, 1, 2, 3]
    before = heartbeat.read(heartbeat.path(records, 0))
    assert before
    entries.until(
        lambda: (heartbeat.read(heartbeat.path(records, 0)) or before).step > before.step, "it goes on"
    )


def entries_of(scratch: Path) -> Path:
    """The folder of the first host's records, once both its ranks have done a step."""
    files = [f"rank-{rank}" for rank in range(2)]

    def found() -> list[Path]:
        return [f for f in scratch.glob("heartbeat-*") if all((f / name).exists() for name in files)]

    entries.until(found, "records are there")
    return found()[0]


class Node:
    """Node 0 of two hosts, without processes: what it tells, and what it puts."""

    def __init__(self, folder: Path, wish: float | None) -> None:
        self.told: list[dict[str, Any]] = []
        self.put: list[ranks.Event] = []
        self.said: list[str] = []
        peers = Peers(["a", "b"])
        peers.tell = lambda **message: self.told.append(message)  # type: ignore[method-assign]
        watched = watch.Watch(ranks.Ranks(), {}, folder, self.put.append, wish=wish)
        self.hang = hang.Hang(folder, "0", watched, peers=peers, index=0, say=self.said.append)

    def answer(self, step: int | None, function: str) -> None:
        entries.until(lambda: self.told, "the other host is asked")
        frame = ["/lib/torch/distributed/distributed_c10d.py", 3, function, ""]
        record = {"rank": 1, "host": "b", "step": step, "state": "S", "wchan": ""}
        record |= {"threads": [[frame]], "program": "python"}
        self.hang.heard(1, {"type": "dumped", "name": self.told[-1]["name"], "ranks": [record]})
        entries.until(lambda: not self.hang.name, "it has concluded")


def test_it_takes_all_hosts(tmp_path: Path) -> None:
    node = Node(tmp_path, 60.0)
    node.hang.mark(0, "quiet")
    node.hang.mark(1, "moves")
    assert node.told == []
    node.hang.mark(0, "done")
    node.hang.mark(1, "quiet")
    node.answer(3, "all_reduce")
    assert [type(event) for event in node.put] == [ranks.Stalled]


def test_all_that_are_done_are_no_hang(tmp_path: Path) -> None:
    node = Node(tmp_path, 60.0)
    for index in range(2):
        node.hang.mark(index, "done")
    assert node.told == []


def test_a_rank_that_wakes_up_meanwhile_goes_on(tmp_path: Path) -> None:
    node = Node(tmp_path, 60.0)
    node.hang.mark(0, "done")
    node.hang.mark(1, "quiet")
    node.hang.mark(1, "moves")
    node.answer(3, "all_reduce")
    assert node.put == []


def test_a_stall_that_comes_while_stacks_are_asked_for_is_looked_at_after(tmp_path: Path) -> None:
    node = Node(tmp_path, 60.0)
    node.hang.ask("asked")
    node.hang.mark(0, "done")
    node.hang.mark(1, "quiet")
    node.hang.heard(1, {"type": "dumped", "name": node.told[0]["name"], "ranks": []})
    entries.until(lambda: len(node.told) == 2, "the other host is asked again")
    node.answer(3, "all_reduce")
    assert [type(event) for event in node.put] == [ranks.Stalled]


def test_an_answer_that_cannot_be_read_is_not_the_last_one(tmp_path: Path) -> None:
    node = Node(tmp_path, 60.0)
    node.hang.ask("asked")
    node.hang.heard(1, {"type": "dumped", "name": node.told[0]["name"], "ranks": [{}]})
    entries.until(lambda: not node.hang.name, "it is given up")
    assert node.said == ["what the ranks are in could not be told: KeyError('threads')"]
    node.hang.ask("asked")
    assert len(node.told) == 2
    node.answer(3, "all_reduce")


@pytest.mark.parametrize(
    ("step", "function", "wish", "ends"),
    [
        (None, "accept", None, False),  # a server that nobody asks
        (None, "all_reduce", None, True),
        (3, "accept", None, True),
        (None, "accept", 60.0, True),
    ],
)
def test_a_program_that_told_no_step_is_ended_only_where_ranks_wait_for_each_other(
    step: int | None, function: str, wish: float | None, ends: bool, tmp_path: Path
) -> None:
    node = Node(tmp_path, wish)
    node.hang.mark(0, "done")
    node.hang.mark(1, "quiet")
    node.answer(step, function)
    assert bool(node.put) == ends
    assert node.said[-1].startswith("stalled" if ends else "silent")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "stacks" / "0-1").mkdir(parents=True)
    node = Node(tmp_path, 60.0)
    node.hang.ask("asked")
    node.answer(3, "all_reduce")
    assert (tmp_path / "stacks" / "0-2" / "verdict.json").exists()

"""A host's look at its ranks, on a clock of the test's own: when it tells the supervisor, and what it leaves out."""

from __future__ import annotations

import functools
import os
import queue
import subprocess
from typing import TYPE_CHECKING, Any

import heartbeat
import pytest
import ranks
import watch

from tests.docker import entries

if TYPE_CHECKING:
    from pathlib import Path


class Host:
    """Ranks 4 and 5, whose processes are this one and its parent: alive, and untouched."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.events: queue.SimpleQueue[ranks.Event] = queue.SimpleQueue()
        self.ranks = ranks.Ranks(numbers={os.getpid(): 4, os.getppid(): 5})
        self.watch = watch.Watch(self.ranks, {}, folder, self.events.put, **more)
        self.folder, self.now = folder, 1000.0

    def beat(self, step: int, rank: int = 4) -> None:
        heartbeat.path(self.folder, rank).write_bytes(heartbeat.sealed({"step": step, "phase": "step"}))

    def look(self, seconds: float, every: float = 2.0) -> list[ranks.Event]:
        """What it tells meanwhile."""
        end, told = self.now + seconds, []
        while self.now < end:
            self.now += every
            self.watch.look(self.now)
        while not self.events.empty():
            told.append(self.events.get())
        return told


def quiet(state: str) -> ranks.Quiet:
    return ranks.Quiet(state)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path, wish=60.0)
    host.beat(1, 4)
    host.beat(1, 5)
    assert host.look(4) == []
    return host


def test_it_is_told_once_when_no_rank_advances_and_when_one_does(host: Host) -> None:
    assert host.look(40) == []
    assert host.look(60) == [quiet("quiet")]
    host.beat(2, 5)
    assert host.look(10) == [quiet("moves")]


def test_one_rank_that_advances_is_enough(host: Host) -> None:
    for step in range(2, 20):
        host.beat(step, 5)
        assert host.look(20) == []


def test_ranks_that_are_done_are_not_waited_for(host: Host) -> None:
    host.ranks.codes[5] = 0
    host.beat(2, 5)
    assert host.look(100) == [quiet("quiet")]
    host.ranks.codes[4] = 0
    assert host.look(2) == [quiet("done")]


def test_a_job_that_was_suspended_is_not_stalled(host: Host) -> None:
    host.now += 24 * 3600
    assert host.look(40) == []


def test_off_judges_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, judges=False)
    host.beat(1)
    host.beat(1, 5)
    assert host.look(24 * 3600, every=60.0) == []


def test_a_question_is_found_and_taken_away(host: Host) -> None:
    (host.folder / watch.ASKED).touch()
    assert host.look(2) == [ranks.Asked()]
    assert host.look(2) == []


def _has_moved(host: Host, pid: int, least: int) -> bool:
    return host.watch._moved(pid) >= least


def test_files_that_a_scripts_program_moves_are_signs_of_life(host: Host) -> None:
    """The rank itself is a shell, which only waits."""
    script = subprocess.Popen(["sh", "-c", "cat >/dev/null; true"], stdin=subprocess.PIPE)
    assert script.stdin
    try:
        host.ranks.numbers = {script.pid: 4}
        heartbeat.path(host.folder, 4).unlink()
        for written in range(4096, 40961, 4096):
            script.stdin.write(b"x" * 4096)
            script.stdin.flush()
            entries.until(functools.partial(_has_moved, host, script.pid, written), "it is read")
            assert host.look(20) == []
        assert host.look(100) == [quiet("quiet")]
    finally:
        script.stdin.close()
        script.wait(entries.LIMIT)


def test_ranks_that_a_tool_has_started_count_as_one(tmp_path: Path) -> None:
    host = Host(tmp_path, wish=60.0)
    host.ranks.start_ranks = True
    del host.ranks.numbers[os.getppid()]
    for step in range(10):
        host.beat(step, 40 + step % 2)
        assert host.look(20) == []
    assert host.look(100) == [quiet("quiet")]

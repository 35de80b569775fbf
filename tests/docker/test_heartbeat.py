"""What a rank tells its node entry: records that are whole, times that add up, and readers that trust nothing."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING

import heartbeat
import pytest
import workloads

if TYPE_CHECKING:
    from pathlib import Path


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return heartbeat.path(tmp_path, 3)


def test_what_is_written_is_read(file: Path, clock: Clock) -> None:
    writer = heartbeat.Writer(file)
    clock.now = 110.0
    writer.phase(heartbeat.FIRST, 400)
    clock.now = 170.0
    writer.step(401)
    for step, seconds in ((402, 2.0), (403, 4.0)):
        clock.now += seconds
        writer.step(step, own=seconds / 2)
    beat = heartbeat.read(file)
    assert beat is not None
    assert (beat.step, beat.phase, beat.since, beat.beat) == (403, "step", 176.0, 4)
    assert beat.pid == os.getpid()
    assert beat.spent == writer.spent() == {"start": 10.0, "first step": 60.0, "step": 6.0}
    clock.now += 3
    assert writer.spent()["step"] == 9.0
    assert beat.steps == heartbeat.Steps(count=2, sum=6.0, squares=20.0, last=(2.0, 4.0), own=(1.0, 2.0))


def test_a_phase_between_steps_is_no_part_of_one(file: Path, clock: Clock) -> None:
    writer = heartbeat.Writer(file)
    writer.step(1)
    with writer.during(heartbeat.CHECKPOINT):
        clock.now += 300
        inside = heartbeat.read(file)
    clock.now += 2
    writer.step(2)
    beat = heartbeat.read(file)
    assert inside
    assert (inside.phase, inside.step) == ("checkpoint", 1)
    assert beat
    assert beat.steps.last == (2.0,)
    assert beat.spent["checkpoint"] == 300.0


def test_the_phase_before_goes_on_after_one_that_failed(file: Path) -> None:
    writer = heartbeat.Writer(file)
    with pytest.raises(OSError, match="disk"), writer.during(heartbeat.LOAD):
        raise OSError("disk")
    beat = heartbeat.read(file)
    assert beat
    assert beat.phase == heartbeat.START


def test_a_record_has_one_size_whatever_is_in_it(file: Path, clock: Clock) -> None:
    writer = heartbeat.Writer(file)
    for phase in heartbeat.PHASES:
        clock.now += 86400 * 365.123456
        writer.phase(phase, 10**12)
    for step in range(2 * heartbeat.LAST):
        clock.now += 99999.123456
        writer.step(10**12 + step, own=99999.123456)
    assert file.stat().st_size == heartbeat.SIZE
    beat = heartbeat.read(file)
    assert beat
    assert len(beat.steps.last) == heartbeat.LAST


def test_a_torn_record_is_none(file: Path) -> None:
    new, old = ({"step": step, "phase": "step"} for step in (2, 1))
    for cut in (1, 20, heartbeat.SIZE - 5):
        file.write_bytes(heartbeat.sealed(new)[:cut] + heartbeat.sealed(old)[cut:])
        beat = heartbeat.read(file)
        assert beat is None or beat.step == 1  # where both have the same bytes


def test_readers_never_see_half_a_record(file: Path) -> None:
    writer, seen = heartbeat.Writer(file), []
    ended = threading.Event()

    def write() -> None:
        for step in range(1, 3000):
            writer.step(step)
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not ended.is_set():
        if beat := heartbeat.read(file):
            seen.append((beat.step, beat.beat))
    thread.join()
    assert all(step == number for step, number in seen)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"step": null}',
        '{"step": 1, "steps": 3}',
        '{"phase": "step"}',
        "[" * 1000,
        "\0\xff",
    ],
)
def test_what_is_no_record_is_none(file: Path, text: str) -> None:
    file.write_text(text, encoding="latin-1")
    assert heartbeat.read(file) is None


def test_a_program_may_write_its_step_alone(file: Path) -> None:
    file.write_text('{"step": 412}\n')
    assert heartbeat.read(file) == heartbeat.Beat(412)
    file.write_text('{"step": 413, "phase": "of my own"}')
    assert heartbeat.read(file) == heartbeat.Beat(413)


def test_nothing_is_there_to_read(file: Path) -> None:
    assert heartbeat.read(file) is None


def test_without_a_node_entry_nothing_fails() -> None:
    writer = heartbeat.Writer(None)
    writer.phase(heartbeat.FIRST)
    writer.step(1)


def test_a_full_disk_is_no_reason_not_to_train(tmp_path: Path) -> None:
    heartbeat.Writer(tmp_path / "gone" / "rank-0").step(1)


def test_a_forked_child_is_not_the_rank(file: Path) -> None:
    writer = heartbeat.Writer(file)
    writer.step(1)
    if not (child := os.fork()):
        writer.step(99)
        os._exit(0)
    os.waitpid(child, 0)
    beat = heartbeat.read(file)
    assert beat
    assert beat.step == 1


def test_one_call_for_a_program_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(heartbeat.VARIABLE, str(tmp_path))
    monkeypatch.setenv("RANK", "3")
    heartbeat.mine.cache_clear()
    try:
        workloads.heartbeat(7)
        workloads.heartbeat(7, "checkpoint")
    finally:
        heartbeat.mine.cache_clear()
    beat = heartbeat.read(heartbeat.path(tmp_path, 3))
    assert beat
    assert (beat.step, beat.phase) == (7, "checkpoint")
    assert json.loads(heartbeat.path(tmp_path, 3).read_bytes()[: heartbeat.SIZE - 9])["beat"] == 2

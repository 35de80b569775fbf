"""One checkpoint at a time is written while training goes on; it is complete once every rank has written, or told."""

from __future__ import annotations

import itertools
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

import heartbeat  # noqa: E402
from workloads import digests, metrics, saver, session, waiting  # noqa: E402
from workloads.session import Session, Stop  # noqa: E402

from tests.docker.workloads.conftest import place  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from workloads.writing import Part

pytestmark = pytest.mark.torch
LIMIT = 60.0  # seconds that no test comes near


class Disk:
    """One that takes a file when it is told to; `complete` notes what the ranks have written."""

    def __init__(self, stop: Stop | None = None) -> None:
        self.free, self.stop = threading.Event(), stop
        self.parts: list[list[Part]] = []

    def write(self, state: Any, path: str) -> digests.Written:
        assert self.free.wait(LIMIT)
        return digests.Written(int(state["x"]), path)

    def complete(self, parts: list[Part]) -> None:
        self.parts.append(parts)
        if self.stop:
            raise self.stop

    def sizes(self) -> list[list[int]]:
        return [[file.size for part in parts for file in part.written.values()] for parts in self.parts]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' savers and calls are nothing to this one."""
    monkeypatch.setattr(saver, "_calls", itertools.count())
    monkeypatch.setattr(waiting, "_calls", itertools.count())
    monkeypatch.setattr(session, "troubles", [])


def make(this: Session, goes_on: bool = True) -> saver.Saver:
    return saver.Saver(this, metrics.Log(this.run_dir, this.rank == 0), goes_on=goes_on, saved="step-0")


def save(by: saver.Saver, disk: Disk, step: int, state: dict[str, Any]) -> None:
    path: Path = by.this.run_dir / f"step-{step}"
    with by.checkpoint(path, step, disk.complete) as now:
        now.file(disk.write, state, str(path / "states.pt"))


def events(this: Session, name: str) -> list[dict[str, Any]]:
    lines = map(json.loads, (this.run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def test_at_once_it_is_complete_when_the_call_returns(alone: Session) -> None:
    disk, by = Disk(), make(alone, goes_on=False)
    disk.free.set()
    save(by, disk, 3, {"x": torch.tensor(3)})
    assert disk.sizes() == [[3]]
    assert by.saved == by.settle() == "step-3"
    (event,) = events(alone, "checkpoint")
    assert (event["step"], event["tag"]) == (3, "step-3")
    assert "paused" not in event
    assert events(alone, "waited") == []


def test_training_goes_on_and_its_changes_are_not_written(
    alone: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, by, state = Disk(), make(alone), {"x": torch.tensor(3)}
    save(by, disk, 3, state)
    state["x"] += 100
    assert disk.parts == []
    assert by.saved == "step-0", "nothing is complete that is not written"
    assert alone.agree() == (0.0, False)
    disk.free.set()
    assert by.settle() == "step-3"
    assert disk.sizes() == [[3]]
    (event,), (waited,) = events(alone, "checkpoint"), events(alone, "waited")
    assert event["seconds"] <= event["written"]
    assert event["paused"] <= event["time"]
    assert waited["step"] == 3
    assert "checkpoint step-3 saved in " in capsys.readouterr().out
    assert by.settle() == "step-3", "there is nothing more to wait for"


def test_one_is_in_flight_at_most(alone: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, by, first = Disk(), make(alone), waiting.first

    def wait(*given: Any) -> object:
        assert disk.parts == []
        disk.free.set()
        return first(*given)

    save(by, disk, 1, {"x": torch.tensor(1)})
    monkeypatch.setattr(waiting, "first", wait)
    with by.checkpoint(alone.run_dir / "step-2", 2, disk.complete) as now:
        assert disk.sizes() == [[1]], "the first is complete before the second begins"
        now.file(disk.write, {"x": torch.tensor(2)}, str(alone.run_dir / "step-2/states.pt"))
    by._join()
    assert disk.sizes() == [[1], [2]]


@pytest.mark.parametrize("again", [True, False])
def test_a_failure_is_raised_once_the_ranks_look_and_asks_them_to(again: bool, alone: Session) -> None:
    disk, by = Disk(Stop("checkpoint step-1 could not be written", 74)), make(alone)
    disk.free.set()
    save(by, disk, 1, {"x": torch.tensor(1)})
    by._join()
    assert alone.agree() == (0.0, True), "as a signal does"
    assert session.asked_to_stop() is None
    with pytest.raises(Stop, match="could not be written") as stop:
        save(by, disk, 2, {"x": torch.tensor(2)}) if again else by.settle()
    assert stop.value.code == 74
    assert by.saved == "step-0"
    assert len(disk.parts) == 1
    assert alone.agree() == (0.0, False), "it is told"


def test_a_mistake_of_the_thread_stops_the_run(alone: Session, capsys: pytest.CaptureFixture[str]) -> None:
    by = make(alone)

    def complete(_: list[Part]) -> None:
        raise KeyError("x")

    with by.checkpoint(alone.run_dir / "step-1", 1, complete):
        pass
    with pytest.raises(Stop, match="KeyError: 'x'"):
        by.settle()
    assert "Traceback" in capsys.readouterr().err


def test_a_rank_that_waits_for_it_says_that_it_saves(
    alone: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of that phase is an hour without a byte (limits.json), not ten times a step."""
    beat = heartbeat.Writer(tmp_path / "rank-0")
    monkeypatch.setattr(heartbeat, "mine", lambda: beat)
    beat.phase(heartbeat.STEP, 1)
    disk, by, phases = Disk(), make(alone), []

    def outcome(*given: Any) -> object:
        phases.append(_phase(tmp_path))
        disk.free.set()
        return given[1]()

    save(by, disk, 1, {"x": torch.tensor(1)})
    assert _phase(tmp_path) == heartbeat.STEP
    monkeypatch.setattr(waiting, "first", outcome)
    by.settle()
    assert phases == [heartbeat.CHECKPOINT]
    assert _phase(tmp_path) == heartbeat.STEP


def _phase(folder: Path) -> str | None:
    beat = heartbeat.read(folder / "rank-0")
    assert beat
    return beat.phase


@pytest.fixture
def both(alone: Session, monkeypatch: pytest.MonkeyPatch) -> tuple[saver.Saver, saver.Saver]:
    """The savers of two ranks, which meet in the same store."""
    monkeypatch.setattr(saver, "_calls", iter([0, 0]))
    first, second = (make(place(rank, 2, alone.run_dir)) for rank in range(2))
    return first, second


def test_it_is_complete_once_every_rank_has_written(both: tuple[saver.Saver, saver.Saver]) -> None:
    first, second = both
    disk, slow = Disk(), Disk()
    disk.free.set()
    save(first, disk, 1, {"x": torch.tensor(1)})
    save(second, slow, 1, {"x": torch.tensor(10)})
    assert disk.parts == []
    slow.free.set()
    for one in both:
        one._join()
    assert disk.sizes() == [[1, 10]], "in their order"
    assert slow.parts == [], "rank 0 alone completes it"


def test_what_another_rank_failed_to_write_is_told(both: tuple[saver.Saver, saver.Saver]) -> None:
    disk = Disk()
    disk.free.set()

    def full(*_: object) -> digests.Written:
        raise OSError(28, "No space left on device")

    save(both[0], disk, 1, {"x": torch.tensor(1)})
    path = both[1].this.run_dir / "step-1"
    work: Callable[[list[Part]], None] = disk.complete
    with both[1].checkpoint(path, 1, work) as now:
        now.file(full, {}, str(path / "states.pt"))
    for one in both:
        one._join()
    ((_, theirs),) = disk.parts
    assert theirs.failures[0].startswith("rank 1 on ")
    assert session.troubles == ["checkpoint step-1"], "that rank has all of them look"

"""A rank's profile: begun and ended between its steps by torch's real profiler, and nothing that stops the program."""

from __future__ import annotations

import gzip
import json
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import heartbeat
import pytest
import tracing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Profiler:
    """Stands for torch.profiler.profile: remembers what it is told."""

    def __init__(self, fails: str = "") -> None:
        self.said: list[str] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def told(*words: Any) -> list[Any]:
            self.said.append(name)
            if name == self.fails:
                raise OSError("No space left on device")
            if name == "export_chrome_trace":
                with gzip.open(words[0], "wt") as file:
                    file.write("{}")
            return []

        return told


class Rank:
    """Rank 3 and its program, which has imported a torch of the test's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, fails: str = "") -> None:
        self.writer = heartbeat.Writer(heartbeat.path(folder, 3))
        self.wish, self.answer = folder / "rank-3.profile", folder / "rank-3.profiled"
        self.trace = folder / "run" / "0-1" / "rank-3.pt.trace.json.gz"
        self.profiler = Profiler(fails)
        torch = SimpleNamespace(
            profiler=SimpleNamespace(
                schedule=lambda **values: values,
                profile=lambda schedule: self.profiler,
            )
        )
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setattr(tracing, "figures", lambda _: {"cpu": 0.0, "device": 0.0, "operators": []})

    def ask(self, name: str = "0-1", first: int = 4, steps: int = 2) -> None:
        self.wish.write_text(
            json.dumps({"name": name, "first": first, "steps": steps, "file": str(self.trace)})
        )

    def answered(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.answer.read_text())
        return found


@pytest.fixture
def rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rank:
    return Rank(tmp_path, monkeypatch)


def test_it_begins_after_its_step_and_lets_one_go_by(rank: Rank) -> None:
    rank.ask(first=4, steps=2)
    for step in range(1, 12):
        rank.writer.step(step)
        assert rank.answer.exists() == (step >= 7)
    assert rank.profiler.said == [
        "start",
        "step",
        "step",
        "step",
        "stop",
        "export_chrome_trace",
        "key_averages",
    ]
    found = rank.answered()
    assert (found["name"], found["from"], found["to"]) == ("0-1", 6, 7)
    assert found["bytes"] == rank.trace.stat().st_size
    assert [path.name for path in rank.trace.parent.iterdir()] == [rank.trace.name]
    assert not rank.wish.exists()


def test_one_that_has_gone_further_begins_at_once(rank: Rank) -> None:
    rank.writer.step(100)
    rank.ask(first=4, steps=1)
    for step in (101, 102, 103):
        rank.writer.step(step)
    assert (rank.answered()["from"], rank.answered()["to"]) == (103, 103)


def test_a_wish_that_is_taken_away_leaves_nothing(rank: Rank) -> None:
    rank.ask(first=0, steps=50)
    for step in range(1, 5):
        rank.writer.step(step)
    rank.wish.unlink()
    rank.writer.step(5)
    assert rank.profiler.said[-1] == "stop"
    assert not rank.answer.exists()
    assert not rank.trace.exists()


def test_a_newer_wish_is_the_next_one(rank: Rank) -> None:
    rank.ask("0-1", first=0, steps=50)
    rank.writer.step(1)
    rank.ask("0-2", first=0, steps=1)
    for step in range(2, 6):
        rank.writer.step(step)
    assert (rank.answered()["name"], rank.answered()["from"]) == ("0-2", 5)


@pytest.mark.torch
@pytest.mark.parametrize("fails", ["start", "step", "stop", "export_chrome_trace", "key_averages"])
def test_the_program_goes_on_whatever_fails(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = Rank(tmp_path, monkeypatch, fails)
    rank.ask(first=0, steps=1)
    for step in range(1, 6):
        rank.writer.step(step)
    assert rank.answered() == {"name": "0-1", "error": "OSError: No space left on device"}
    assert not rank.wish.exists()
    assert not list(rank.trace.parent.glob(".*"))
    beat = heartbeat.read(tmp_path / "rank-3")
    assert beat
    assert beat.step == 5


def test_without_torch_there_is_nothing_to_profile(rank: Rank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    rank.ask(first=0)
    rank.writer.step(1)
    assert rank.answered()["error"] == f"RuntimeError: {tracing.NO_TORCH}"


def test_nonsense_is_answered_and_taken_away(rank: Rank) -> None:
    rank.wish.write_text("[")
    rank.writer.step(1)
    assert "error" in rank.answered()


def test_a_rank_that_is_profiled_is_not_slow_and_its_trace_is_no_part_of_a_step(
    rank: Rank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    write = tracing._Torch.written

    def slowly(recorder: tracing._Torch, file: Path) -> dict[str, Any]:
        now[0] += 300.0
        return write(recorder, file)

    monkeypatch.setattr(tracing._Torch, "written", slowly)
    rank.writer.step(1)
    rank.ask(first=0, steps=1)
    for step in range(2, 7):
        now[0] += 2.0
        rank.writer.step(step, own=1.0)
    beat = heartbeat.read(tmp_path / "rank-3")
    assert beat
    assert beat.steps.last == (2.0,) * 5
    assert beat.steps.own == (1.0, 0.0, 0.0, 1.0, 1.0)


def test_operators_are_ordered_by_the_device_where_there_is_one() -> None:
    def row(key: str, cpu: float, device: float) -> SimpleNamespace:
        return SimpleNamespace(key=key, count=2, self_cpu_time_total=cpu, self_device_time_total=device)

    rows = [row("ProfilerStep*", 9e9, 9e9), row("aten::mm", 2e6, 1e6), row("aten::copy_", 1e6, 3e6)]
    found = tracing.figures(rows)
    assert (found["cpu"], found["device"]) == (3.0, 4.0)
    assert [one["name"] for one in found["operators"]] == ["aten::copy_", "aten::mm"]
    for one in rows:
        one.self_device_time_total = 0.0
    assert tracing.figures(rows)["operators"][0] == {
        "name": "aten::mm",
        "calls": 2,
        "cpu": 2.0,
        "device": 0.0,
    }


@pytest.mark.torch
def test_torchs_own_profiler(tmp_path: Path) -> None:
    import torch

    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters())
    writer = heartbeat.Writer(heartbeat.path(tmp_path, 0))
    file = tmp_path / "rank-0.pt.trace.json.gz"
    wish = {"name": "0-1", "first": 2, "steps": 3, "file": str(file)}
    for turn in (1, 2):  # the second time in the same process
        (tmp_path / "rank-0.profile").write_text(json.dumps(wish))
        for step in range(10 * turn, 10 * turn + 8):
            model(torch.ones(4, 8)).sum().backward()
            optimizer.step()
            writer.step(step)
        found = json.loads((tmp_path / "rank-0.profiled").read_text())
        assert found["to"] - found["from"] == 2
        with gzip.open(file) as text:
            events = json.load(text)["traceEvents"]
        marks = {event["name"] for event in events if event["name"].startswith("ProfilerStep#")}
        assert len(marks) == 3, marks
        assert sum(event["name"] == "aten::linear" for event in events) == 3
        names = {one["name"]: one for one in found["operators"]}
        assert names["aten::addmm"]["calls"] == 3
        assert 0 < names["aten::addmm"]["cpu"] <= found["cpu"]
        assert found["device"] == 0

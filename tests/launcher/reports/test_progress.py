"""What `--wait` says of a run at its end: what was learnt, in words that fit the figure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import SubmitError
from launcher.reports import progress, tables
from launcher.runs.metrics import Record
from launcher.runs.record import Run
from launcher.runs.status import Status

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"loss": 4.0}, {"loss": 3.0}], ("loss", "4.0000 at step 1 → 3.0000 (last 1 logged), 25% lower")),
        ([{"loss": 3.0}, {"loss": 4.0}], ("loss", "3.0000 at step 1 → 4.0000 (last 1 logged)")),
        ([{"loss": 2e-9}, {"loss": -4e-9}], ("loss", "0.0000 at step 1 → -0.0000 (last 1 logged)")),
        (
            [{"loss": 1e-9, "reward": -0.5}, {"loss": -1e-9, "reward": 1.5}],
            ("reward", "-0.5000 at step 1 → 1.5000 (last 1 logged)"),
        ),
    ],
)
def test_what_was_learnt(steps: list[dict[str, float]], words: tuple[str, str]) -> None:
    assert progress.trend([Record(n + 1, "", step, {}) for n, step in enumerate(steps)]) == words


def test_a_policy_tells_its_reward() -> None:
    figures = {"max_steps": 9.0, "loss": 1e-9, "tokens_per_second": 1234.5}
    assert tables.progress_line(Record(3, "", figures, {})) == "step 3/9, loss 0.0000, 1,234 tokens/s"
    more = Record(3, "", {**figures, "reward": 1.25}, {})
    assert tables.progress_line(more) == "step 3/9, reward 1.2500, 1,234 tokens/s"
    assert tables.progress_line(Record(3, "", {}, {})) == "step 3"


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        ([(1, 10.0), (3, 14.0)], 14.0),  # seven steps are left
        ([(1, 10.0)], None),
        ([(3, 10.0), (1, 14.0)], None),  # it was started again
        ([(1, 10.0), (3, 9.0)], None),  # the clock was set back
        ([(1, None), (3, None)], None),
    ],
)
def test_the_time_that_is_left(steps: list[tuple[int, float | None]], seconds: float | None) -> None:
    figures = [(n, {"max_steps": 10.0, **({} if time is None else {"time": time})}) for n, time in steps]
    assert progress.seconds_left([Record(n, "", figure, {}) for n, figure in figures]) == seconds


HALF = {"bytes": 5e8, "total_bytes": 1e9, "bytes_per_second": 2e6}


@pytest.mark.parametrize(
    ("event", "figures", "words", "share"),
    [
        (
            "tokenizing",
            {**HALF, "seconds_left": 250.0},
            "tokenizing: 50% of 1.0 GB, 2.0 MB/s, 4 min 10 s left",
            0.5,
        ),
        ("tokenizing", {}, "tokenizing: 0% of 0 B", 0.0),
        (
            "tokenizing",
            {"bytes": -1e300, "total_bytes": 1e-300, "seconds_left": 0.0},
            "tokenizing: 0% of",
            0.0,
        ),
        ("tokenized", {"documents": 2e3, "tokens": 3e6}, "tokenized: 2,000 documents, 3,000,000 tokens", 0.0),
        ("start", {}, "running: ranks are starting", 0.0),
    ],
)
def test_while_there_are_no_steps_it_tells_of_the_text(
    event: str, figures: dict[str, float], words: str, share: float, run: Run
) -> None:
    view = progress._View(run, records=[Record(0, event, figures, {})])
    assert view.line(Status("RUNNING")).startswith(words)
    assert view.fraction == share
    told = [{"event": event, "step": 0, **figures}]
    run.folder.mkdir(exist_ok=True)
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    assert (words in tables.status(run, Status("RUNNING"))) == event.startswith("tokeniz")
    if event == "tokenized":
        view.read()
        assert f"text    {words.removeprefix('tokenized: ')}" in progress._summary(
            run, Status("SUCCEEDED"), view
        )


class Flaky:
    """A scheduler that does not answer `silent` times, and then says that the run succeeded."""

    def __init__(self, silent: int) -> None:
        self.silent = silent

    def status(self, run: Run) -> Status:
        self.silent -= 1
        if self.silent >= 0:
            raise SubmitError("the API server does not answer")
        return Status("SUCCEEDED")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(progress._POLL, "local", 0.0)
    fields: dict[str, Any] = {"native_id": "1:2", "submitted": 0.0, "nodes": 1, "slots": 1, "place": {}}
    return Run(id="own-1", scheduler="local", folder=tmp_path, **fields)


def test_a_scheduler_that_does_not_answer_for_a_moment(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert progress.follow(run, Flaky(2).status) == 0
    assert "no status, trying again: the API server does not answer\n" in capsys.readouterr().err


def test_a_scheduler_that_does_not_answer_any_more(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", -1.0)
    with pytest.raises(SubmitError):
        progress.follow(run, Flaky(99).status)
    said = capsys.readouterr().err
    assert "own-1 is still running" in said
    assert "follow it: python -m launcher logs own-1 -f" in said


def test_the_time_between_attempts_is_not_the_pace_of_this_one(tmp_path: Path) -> None:
    """It failed at step 4 and waited an hour for hosts; since then a step takes two seconds, and 90 are left."""
    lines: list[dict[str, Any]] = [{"step": n, "max_steps": 100, "time": 2.0 * n} for n in (2, 4)]
    lines += [{"event": "start", "step": 4, "time": 3600.0}]
    lines += [{"step": n, "max_steps": 100, "time": 3600 + 2.0 * n} for n in (6, 8, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    view = progress._View(Run("demo", "local", "1:2", tmp_path, 0.0, 1, 1, {}))
    view.read()
    assert view.line(Status("RUNNING")) == "step 10/100, 3 min 00 s left"

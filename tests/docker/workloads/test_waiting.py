"""Ranks wait for long work of one of them without a collective, and what goes wrong there stops all of them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import session, waiting  # noqa: E402

from tests.docker.workloads import late_rank, ranks  # noqa: E402
from tests.docker.workloads.conftest import place  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch


@pytest.mark.deepspeed
def test_tokenizing_may_take_longer_than_a_collective(tmp_path: Path) -> None:
    began = time.monotonic()
    run = ranks.start(
        tmp_path,
        2,
        ranks.deepspeed(2, stage=1),
        *("--seq-length=32", "--max-steps=2", "--log-every=1"),
        module="tests.docker.workloads.late_rank",
    )
    assert run.wait() == [0, 0], run.output()
    assert time.monotonic() - began > late_rank.LIMIT
    assert sorted(run.losses()) == [1, 2]


@pytest.mark.deepspeed
def test_a_mistake_in_the_data_is_told_once_and_stops_all_ranks(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"text": "x"}) + '\n{"text": "y"\n')
    run = ranks.start(tmp_path, 2, ranks.deepspeed(2, stage=1), "--seq-length=32", f"--data={bad}")
    assert run.wait() == [64, 64], run.output()
    assert run.output().count("bad.jsonl:2: broken JSON") == 1
    assert not list((tmp_path / "run/data").iterdir())


@pytest.fixture
def two(alone: session.Session, monkeypatch: pytest.MonkeyPatch) -> session.Session:
    """The second of two ranks, whose first is played by the test."""
    monkeypatch.setattr(waiting, "GRACE", 0.0)
    return place(1, 2, alone.run_dir)


def test_a_rank_that_waits_gives_up(two: session.Session) -> None:
    with pytest.raises(session.Stop, match=r"rank 0 was not ready after 0 minutes \(--data-wait\)"):
        waiting.first(two, lambda: 5, 0.0)


def test_what_the_first_rank_says_arrives(two: session.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    one = place(0, 2, two.run_dir)
    for _ in range(2):  # one call and the next do not meet
        call = next(waiting._calls) + 1
        monkeypatch.setattr(waiting, "_calls", iter([call, call]))
        assert waiting.first(one, lambda call=call: {"tokens": call}, 1.0) == {"tokens": call}  # type: ignore[misc]
        assert waiting.first(two, lambda: {"tokens": -1}, 1.0) == {"tokens": call}
        monkeypatch.undo()


def test_a_leader_at_work_hears_of_another_hosts_mistake(
    two: session.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = next(waiting._calls) + 1
    monkeypatch.setattr(waiting, "_calls", iter([call, call]))

    def fail(look: object) -> None:
        raise session.Stop("a broken line")

    for rank, work in ((place(0, 2, two.run_dir), fail), (two, lambda look: look())):
        with pytest.raises(session.Stop, match="a broken line"):
            waiting._led(rank, [0, 1], work, 0.0)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (session.Stop("no text", 64), 64, "no text"),
        (OSError("the disk is gone"), 74, "the disk is gone"),
        (KeyError("bug"), 1, "KeyError: 'bug'"),
    ],
)
def test_what_the_work_raises_is_raised_everywhere(
    error: Exception, code: int, message: str, two: session.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    call = next(waiting._calls) + 1
    monkeypatch.setattr(waiting, "_calls", iter([call, call]))
    for rank in (place(0, 2, two.run_dir), two):
        with pytest.raises(session.Stop) as stop:
            waiting.first(rank, fail, 1.0)
        assert (stop.value.code, stop.value.message) == (code, message)

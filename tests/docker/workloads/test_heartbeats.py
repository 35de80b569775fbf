"""What ranks tell of themselves where it takes long: the first batch, and each one of an evaluation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import heartbeat
import pytest
import torch
from workloads import callbacks, evaluate, ppo_training, rollouts, trainers, training

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.heavy  # reads torch


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of this rank."""
    writer = heartbeat.Writer(tmp_path / "rank-0")
    monkeypatch.setattr(heartbeat, "mine", lambda: writer)
    writer.phase(heartbeat.START)
    return tmp_path / "rank-0"


def test_the_first_pass_of_the_harness_is_the_first_step(told: Path) -> None:
    model: Any = torch.nn.Identity()
    phases: list[Any] = []
    evaluate.tell_passes(model)
    model.register_forward_pre_hook(lambda *_: phases.append(beat(told).phase))
    assert beat(told).phase == heartbeat.START
    assert [int(model(torch.tensor(number))) for number in (5, 6)] == [5, 6]
    assert phases == [heartbeat.FIRST, heartbeat.STEP]
    assert beat(told).step == 2


def test_each_batch_of_an_evaluation_is_a_sign_of_life(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[tuple[Any, ...]] = []

    def loss(*_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        beats.append((beat(told).beat, beat(told).phase))
        return torch.zeros(()), torch.ones(())

    monkeypatch.setattr(training, "next_token_loss", loss)
    nothing = lambda *_, **__: None  # noqa: E731
    here: Any = SimpleNamespace(
        data=SimpleNamespace(evaluation=SimpleNamespace(batches=range(3), tokens=3, bytes=3)),
        engine=SimpleNamespace(eval=nothing, train=nothing),
        this=SimpleNamespace(device="cpu", world_size=1, agree=lambda mean: (float(mean), False)),
        group=None,
        log=SimpleNamespace(event=nothing, say=nothing),
        progress=SimpleNamespace(step=9),
    )
    training.Training.evaluate(here)
    assert beats == [(number, heartbeat.EVALUATE) for number in (2, 3, 4)]


def test_so_it_is_in_a_trainers(told: Path) -> None:
    reporter = object.__new__(callbacks.Reporter)
    with heartbeat.mine().during(heartbeat.EVALUATE):
        before = beat(told)
        reporter.on_prediction_step(None, None, None, eval_dataloader=None)
        assert (beat(told).beat, beat(told).since) == (before.beat + 1, before.since)


def test_so_it_is_where_each_token_weighs_the_same(told: Path) -> None:
    nothing = lambda *_: None  # noqa: E731
    beats: list[int] = []

    def judge(*_: Any) -> tuple[torch.Tensor, ...]:
        beats.append(beat(told).beat)
        return (torch.ones(()),) * 3

    trainer: Any = SimpleNamespace(
        model_wrapped=SimpleNamespace(eval=nothing, train=nothing),
        args=SimpleNamespace(device="cpu"),
        get_eval_dataloader=lambda: range(3),
        accelerator=SimpleNamespace(reduce=lambda sums: sums),
        log=nothing,
        callback_handler=SimpleNamespace(on_evaluate=nothing),
        state=None,
        control=None,
    )
    assert trainers.evaluate_tokens(trainer, judge) == {"eval_loss": 1.0, "eval_accuracy": 1.0}
    assert beats == [1, 2, 3]


def test_so_it_is_where_answers_are_sampled(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    asked: list[tuple[Any, Any]] = []

    def answers(_: Any, __: Any, prompts: Any, seeds: Any) -> None:
        beats.append(beat(told).beat)
        asked.append((prompts, seeds))

    monkeypatch.setattr(rollouts, "answers", answers)
    monkeypatch.setattr(rollouts, "figures", lambda *_: {"tokens": 1.0})
    nothing = lambda *_, **__: None  # noqa: E731
    stage = SimpleNamespace(
        this=SimpleNamespace(world_size=1, rank=0),
        size=SimpleNamespace(total=2, micro=1),
        log=SimpleNamespace(event=nothing, say=nothing),
    )
    progress, args = SimpleNamespace(step=9), SimpleNamespace(seed=5)
    here: Any = SimpleNamespace(stage=stage, models=None, held_out=[[7], [8]], args=args, progress=progress)
    ppo_training.Training.evaluate(here)
    assert beats == [2, 3]
    held_out = ppo_training.HELD_OUT
    assert asked == [([[7]], [(5, held_out, 0)]), ([[8]], [(5, held_out, 1)])]


def beat(file: Path) -> heartbeat.Beat:
    found = heartbeat.read(file)
    assert found
    return found

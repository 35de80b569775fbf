"""The arithmetic of policy optimization, on numbers small enough for paper; and its loop with real ranks."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="torch is only installed where jobs run")

from workloads import ppo, rollouts  # noqa: E402

from tests.docker.workloads import ranks  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.torch

ALL = torch.ones(1, 3)


def test_the_score_comes_with_the_last_token_and_distance_costs() -> None:
    policy, reference = torch.tensor([[-1.0, -1.0, -1.0]] * 2), torch.tensor([[-2.0, -1.0, -3.0]] * 2)
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    found = ppo.token_rewards(torch.tensor([5.0, 7.0]), policy, reference, mask, beta=0.1)
    assert found[0].tolist() == pytest.approx([-0.1, 0.0, 5.0 - 0.2])
    assert found[1].tolist() == pytest.approx([-0.1, 7.0, 0.0])


def test_advantages_without_discount_are_what_is_still_to_come() -> None:
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0, 2.0]])
    gained, returns = ppo.advantages(rewards, values, ALL, gamma=1.0, gae_lambda=1.0)
    assert returns[0].tolist() == pytest.approx([6.0, 5.0, 3.0])
    assert gained[0].tolist() == pytest.approx([5.5, 4.0, 1.0])


def test_advantages_with_discount() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]])
    gained, returns = ppo.advantages(rewards, values, ALL, gamma=0.9, gae_lambda=0.5)
    third = 1.0 - 0.3
    second = 0.9 * 0.3 - 0.2 + 0.45 * third
    first = 0.9 * 0.2 - 0.1 + 0.45 * second
    assert gained[0].tolist() == pytest.approx([first, second, third])
    assert returns[0].tolist() == pytest.approx([first + 0.1, second + 0.2, third + 0.3])


def test_what_follows_the_answer_counts_for_nothing() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    rewards = torch.tensor([[1.0, 2.0, 0.0]])
    for beyond in (0.0, 99.0):
        values = torch.tensor([[0.5, 1.0, beyond]])
        gained, returns = ppo.advantages(rewards, values, mask, gamma=1.0, gae_lambda=0.95)
        assert gained[0].tolist() == pytest.approx([1.5 + 0.95, 1.0, 0.0])
        assert returns[0, 2] == 0
        new = torch.tensor([[0.0, 0.0, beyond]])
        losses = ppo.policy_losses(new, torch.zeros(1, 3), gained, mask, clip=0.2)
        assert ppo.mean(losses, mask, count=2) == pytest.approx(-(2.45 + 1.0) / 2)


def test_whitened_numbers_have_mean_0_and_variance_1() -> None:
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    values = torch.tensor([[1.0, 2.0, 6.0, 50.0]])
    white = ppo.whitened(values, mask, ppo.sums(values, mask))
    assert white.sum() == pytest.approx(0.0, abs=1e-6)
    assert (white**2).sum() / 3 == pytest.approx(1.0)


def test_advantages_are_whitened_over_all_micro_batches() -> None:
    """A good answer and a bad one: seen one by one each would have the mean advantage 0."""
    parts = [torch.tensor([[4.0, 5.0, 6.0]]), torch.tensor([[-5.0, -5.0, 99.0]])]
    masks = [torch.ones(1, 3), torch.tensor([[1.0, 1.0, 0.0]])]
    totals = sum(ppo.sums(v, m) for v, m in zip(parts, masks, strict=True))
    white = [ppo.whitened(v, m, totals) for v, m in zip(parts, masks, strict=True)]
    assert white[0].mean() > 0.5
    assert white[1][0, :2].mean() < -0.5
    together = ppo.whitened(torch.cat(parts), torch.cat(masks), ppo.sums(torch.cat(parts), torch.cat(masks)))
    torch.testing.assert_close(torch.cat(white), together)


def test_the_mean_over_a_step_does_not_depend_on_how_it_is_cut() -> None:
    values, mask = (
        torch.tensor([[1.0, 2.0, 3.0], [7.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    )
    whole = ppo.mean(values, mask, count=4)
    parts = [ppo.mean(values[row : row + 1], mask[row : row + 1], count=4 / 2) for row in range(2)]
    assert whole == pytest.approx(13 / 4)
    assert sum(parts) / 2 == pytest.approx(13 / 4)


def test_the_weight_of_the_distance_follows_its_target() -> None:
    assert ppo.next_beta(0.1, distance=6.0, target=6.0) == pytest.approx(0.1)
    assert ppo.next_beta(0.1, distance=6.6, target=6.0) == pytest.approx(0.1 * 1.01)
    assert ppo.next_beta(0.1, distance=60.0, target=6.0) == pytest.approx(
        0.1 * 1.02
    )  # the error is cut at 0.2
    assert ppo.next_beta(0.1, distance=0.0, target=6.0) == pytest.approx(0.1 * 0.98)


def test_scores_are_clipped_and_an_answer_that_is_cut_off_pays() -> None:
    args = argparse.Namespace(score_clip=5.0, missing_eos_penalty=2.0)
    two = torch.zeros(3, 2)
    answers = rollouts.Answers(
        ids=torch.zeros(3, 4),
        mask=torch.ones(3, 4),
        answered=torch.ones(3, 2),
        old=two,
        reference=two,
        values=two,
        scores=torch.tensor([9.0, 1.0, 1.0]),
        ended=torch.tensor([True, True, False]),
    )
    assert answers.rewards(args, beta=0.1).tolist() == [[0.0, 5.0], [0.0, 1.0], [0.0, -1.0]]
    assert answers.scores.tolist() == [9.0, 1.0, 1.0]  # what is logged
    assert answers.begin == 2


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss", "moves"),
    [(1.0, 1.1, -1.1, True), (1.0, 1.5, -1.2, False), (-1.0, 0.5, 0.8, False), (-1.0, 1.5, 1.5, True)],
)
def test_the_policy_earns_nothing_beyond_the_clip(
    advantage: float, ratio: float, loss: float, moves: bool
) -> None:
    one = torch.ones(1, 1)
    new = torch.full((1, 1), math.log(ratio), requires_grad=True)
    found = ppo.policy_losses(new, torch.zeros(1, 1), advantage * one, one, clip=0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert (new.grad.abs().item() > 0) == moves


def test_values_are_held_near_the_old_ones() -> None:
    one = torch.ones(1, 1)
    for new, further in ((2.0, 2.8), (0.1, 2.9)):
        loss = ppo.value_losses(new * one, 0.0 * one, 3.0 * one, clip=0.2)
        assert loss.item() == pytest.approx(0.5 * further**2)


def test_an_answer_ends_with_its_end_token() -> None:
    tokens = torch.tensor([[5, 9, 9, 9], [5, 6, 7, 8], [9, 9, 9, 9]])
    assert rollouts.before_end(tokens, 9).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.deepspeed
def test_an_interrupted_run_continues_exactly_under_zero_3(tmp_path: Path) -> None:
    """Policy, critic, their optimizers and the place in the prompts all come back, however answers are sampled."""
    config = ranks.deepspeed(2, stage=3, micro=2, accumulation=2, gradient_clipping=1.0)
    args = (
        "--reward=lower-case",
        "--max-new-tokens=24",
        "--log-every=1",
        "--checkpoint-every=2",
        "--lr=5e-3",
    )

    def start(folder: Path, *more: str) -> ranks.Ranks:
        model = {**ranks.LLAMA, "num_hidden_layers": 1}
        return ranks.start(folder, 2, config, *args, "--max-steps=5", *more, model=model, workload="chat_ppo")

    whole = start(tmp_path / "whole", "--offload-frozen", "--no-gather-for-generation")
    assert whole.wait() == [0, 0], whole.output()
    run = start(tmp_path / "cut", "--fail-at-step=4", "--fail-code=9")
    assert run.wait()[0] == 9
    again = start(tmp_path / "cut", "--fail-at-step=4", "--checkpoint-async")
    assert again.wait() == [0, 0], again.output()
    assert again.events("start")[-1]["resumed_from"] == "step-00000002"
    for key in ("reward", "kl", "critic_loss", "grad_norm"):
        ours = {step["step"]: step[key] for step in again.steps()}
        theirs = {step["step"]: step[key] for step in whole.steps()}
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)

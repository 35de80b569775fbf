"""Proximal policy optimization for text: rewards of tokens, advantages and the two losses.

Owns the arithmetic, on tensors of [answers, tokens] with a mask of the answers' tokens (1, else 0); models and sampling
are chat_ppo's. Schulman et al. 2017, https://arxiv.org/abs/1707.06347; for text Ouyang et al. 2022,
https://arxiv.org/abs/2203.02155, section 3.5.
"""

from __future__ import annotations

import torch


def mean(values: torch.Tensor, mask: torch.Tensor, count: float) -> torch.Tensor:
    """The sum over the answers' tokens divided by `count`, a scalar.

    With `count` the tokens of the whole step divided by its micro batches on all ranks, the mean over these is the mean
    over the tokens, however the step is cut.
    """
    return (values * mask).sum() / count


def token_rewards(
    scores: torch.Tensor, policy: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, *, beta: float
) -> torch.Tensor:
    """Each token costs beta x (log-probability - reference's); the score [answers] comes with the last token."""
    rewards = -beta * (policy - reference) * mask
    last = mask.sum(dim=1).long().clamp(min=1) - 1
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last] += scores
    return rewards


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, *, gamma: float, gae_lambda: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized advantage estimates and the returns that values should have been.

    Schulman et al. 2016, https://arxiv.org/abs/1506.02438, equation 16.
    """
    values, estimates = values * mask, torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    for place in reversed(range(values.shape[1])):
        after = values[:, place + 1] if place + 1 < values.shape[1] else torch.zeros_like(running)
        surprise = rewards[:, place] + gamma * after - values[:, place]
        running = surprise + gamma * gae_lambda * running
        estimates[:, place] = running
    return estimates * mask, (estimates + values) * mask


def sums(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How many tokens, their sum and the sum of their squares: what adds up over micro batches and ranks."""
    kept = (values * mask).double()
    return torch.stack([mask.double().sum(), kept.sum(), (kept**2).sum()])


def whitened(values: torch.Tensor, mask: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
    """Values with mean 0 and variance 1 over all tokens that `totals` (of `sums`) are of."""
    count, total, squares = totals.tolist()
    middle = total / max(1.0, count)
    spread = max(0.0, squares / max(1.0, count) - middle**2)
    return (values - middle) * (spread + 1e-8) ** -0.5 * mask


def policy_losses(
    new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor, *, clip: float
) -> torch.Tensor:
    """The clipped surrogate of each log-probability: what moves a ratio beyond 1 +- clip earns nothing more."""
    ratio = torch.exp((new - old) * mask)
    return torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def value_losses(new: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, *, clip: float) -> torch.Tensor:
    """Half the squared error of each value; one further than clip from the old one earns nothing more."""
    near = torch.clamp(new, old - clip, old + clip)
    return 0.5 * torch.max((new - returns) ** 2, (near - returns) ** 2)


def next_beta(beta: float, distance: float, target: float) -> float:
    """The weight of the distance to the reference (KL) for the next step, so that it comes near a target.

    Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2, with its K of 0.1.
    """
    error = min(0.2, max(-0.2, distance / target - 1))
    return beta * (1 + 0.1 * error)

"""Proximal policy optimization for text: rewards of tokens, advantages and the two losses.

Owns the arithmetic, on tensors of [answers, tokens] with a mask of the answers' tokens (1, else 0); models and sampling
are chat_ppo's. Schulman et al. 2017, https://arxiv.org/abs/1707.06347; for text Ouyang et al. 2022,
https://arxiv.org/abs/2203.02155, section 3.5.
"""

from __future__ import annotations

import torch


def log_probabilities(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of each of `tokens`; `logits` are those that predicted them, [answers, tokens, vocabulary]."""
    return torch.log_softmax(logits.float(), dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the answers' tokens, a scalar."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def token_rewards(
    scores: torch.Tensor, policy: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Each token costs beta x (log-probability - reference's); the score [answers] comes with the last token."""
    rewards = -beta * (policy - reference) * mask
    last = mask.sum(dim=1).long().clamp(min=1) - 1
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last] += scores
    return rewards


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, decay: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized advantage estimates and the returns that values should have been.

    Schulman et al. 2016, https://arxiv.org/abs/1506.02438, equation 16, with decay for lambda.
    """
    values, found = values * mask, torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    for place in reversed(range(values.shape[1])):
        after = values[:, place + 1] if place + 1 < values.shape[1] else torch.zeros_like(running)
        surprise = rewards[:, place] + gamma * after - values[:, place]
        running = surprise + gamma * decay * running
        found[:, place] = running
    return found * mask, (found + values) * mask


def whitened(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values of the answers' tokens with mean 0 and variance 1."""
    middle = mean(values, mask)
    spread = mean((values - middle) ** 2, mask)
    return (values - middle) * torch.rsqrt(spread + 1e-8) * mask


def policy_loss(
    new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """The clipped surrogate of log-probabilities, a scalar: what moves a ratio beyond 1 +- clip earns nothing more."""
    ratio = torch.exp((new - old) * mask)
    return mean(torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)), mask)


def value_loss(
    new: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor, clip: float
) -> torch.Tensor:
    """Half the squared error of values, a scalar; a value further than clip from the old one earns nothing more."""
    near = torch.clamp(new, old - clip, old + clip)
    return 0.5 * mean(torch.max((new - returns) ** 2, (near - returns) ** 2), mask)

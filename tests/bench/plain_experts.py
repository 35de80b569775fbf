"""The load-balancing loss of Switch Transformer (https://arxiv.org/abs/2101.03961, equations 4 to 6), in torch alone.

Of each sequence by itself, as DeepSeek-V3 has it (https://arxiv.org/abs/2412.19437, equations 17 to 20). No code is
shared with docker/workloads.
"""

from __future__ import annotations

from typing import Any

import torch


def balance(model: Any, texts: list[torch.Tensor], weights: list[int] | None = None) -> torch.Tensor:
    """The weighted mean over texts, each of which is seen alone, times the model's coefficient; 0 without experts."""
    coefficient = getattr(model.config, "router_aux_loss_coef", 0.0)
    if not coefficient:
        return torch.zeros(())
    losses = []
    for ids in texts:
        routers = model.base_model(ids[None], output_router_logits=True).router_logits
        losses.append(
            sum(_of_layer(logits, model.config.num_experts_per_tok) for logits in routers) / len(routers)
        )
    shares = torch.tensor(weights or [1] * len(texts), dtype=torch.float32)
    return coefficient * (torch.stack(losses) * shares).sum() / shares.sum()


def _of_layer(logits: torch.Tensor, chosen: int) -> torch.Tensor:
    shares = logits.softmax(-1)
    best = shares.topk(chosen).indices
    experts = range(logits.shape[1])
    parts = [(best == number).any(-1).float().mean() * shares[:, number].mean() for number in experts]
    return len(experts) * torch.stack(parts).sum()

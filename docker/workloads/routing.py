"""Mixture-of-experts models: the loss that spreads tokens over the experts, and how the routers choose.

Owns what is computed from the routers' logits, which transformers records; the rest of the loss is losses.py's.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import torch
    from torch.distributed import ProcessGroup
    from transformers import PretrainedConfig

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")  # families' keys
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k")


class Routing(NamedTuple):
    """Of all layers' routers, for some tokens."""

    balance: torch.Tensor  # [sequences]: the load-balancing loss of each, a mean over layers
    choices: torch.Tensor  # [layers, experts]: how often each expert was chosen
    entropy: torch.Tensor  # [layers]: of the routers' distributions, nats, summed over tokens


def experts(settings: PretrainedConfig) -> int:
    """How many experts a layer of the model has; 0 if it is no mixture of experts."""
    return max((int(getattr(settings, key, None) or 0) for key in EXPERTS), default=0)


def coefficient(settings: PretrainedConfig) -> float:
    """The weight of the load-balancing loss by the model's configuration; 0 where it has none."""
    return float(getattr(settings, "router_aux_loss_coef", None) or 0.0)


def unbalanced(settings: PretrainedConfig) -> str | None:
    """What to say of a mixture of experts that is trained without a load-balancing loss; None of all others."""
    if not experts(settings) or balanced(settings):
        return None
    key = "router_aux_loss_coef"
    if not hasattr(settings, key):
        reason = f"{settings.model_type} has no {key}"
    else:
        reason = "there is none for an encoder-decoder" if coefficient(settings) else f"{key} is 0"
    return f"the {experts(settings)} experts are trained without a load-balancing loss ({reason})"


def balanced(settings: PretrainedConfig) -> bool:
    """Whether a model with this configuration is trained with a load-balancing loss."""
    return bool(coefficient(settings)) and not getattr(settings, "is_encoder_decoder", False)


def routing(
    logits: tuple[torch.Tensor, ...],
    settings: PretrainedConfig,
    sequences: torch.Tensor | None = None,
    group: ProcessGroup | None = None,
) -> Routing:
    """The Routing of the routers' logits, one tensor [tokens, experts] for each layer.

    `sequences` [tokens] says to which sequence a token belongs, from 0 on, or -1 for padding; by default all are one.
    Where each rank of a `group` has a part of every sequence, a rank's loss is its part of the sequence's.
    The loss is that of Switch Transformer (arXiv 2101.03961, equations 4 to 6), for each layer and sequence: the number
    of experts times the sum, over experts, of choices for a token times mean probability. It is the number of experts
    that a token gets where all are used alike. As it is not linear in the tokens, one of all tokens at hand depends on
    how a step is cut into micro batches; one of each sequence, as DeepSeek-V3 has it (arXiv 2412.19437, equations 17 to
    20), does not. transformers' own load_balancing_loss_func adds up the choices of all layers, so that a layer may
    use one expert alone.
    """
    import torch

    if sequences is None:
        sequences = torch.zeros(logits[0].flatten(0, -2).shape[0], dtype=torch.long, device=logits[0].device)
    count = int(sequences.max()) + 1
    places = sequences.masked_fill(sequences < 0, count)  # padding gets a row of its own, which is dropped
    lengths = torch.bincount(places, minlength=count + 1)[:count, None]

    def sums(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(count + 1, *values.shape[1:]).index_add(0, places, values)[:count]

    def of_all(values: torch.Tensor) -> torch.Tensor:
        if group is None:
            return values
        values = values.clone()
        torch.distributed.all_reduce(values, group=group)
        return values

    lengths = of_all(lengths).clamp(min=1)
    balance, choices, entropy = [], [], []
    for layer in logits:
        shares = layer.float().flatten(0, -2).softmax(-1)
        chosen = torch.zeros_like(shares).scatter_(1, shares.topk(_chosen(settings)).indices, 1.0)
        counts = sums(chosen)
        balance.append(shares.shape[1] * (of_all(counts) / lengths * (sums(shares) / lengths)).sum(-1))
        choices.append(counts.sum(0))
        entropy.append(sums(torch.special.entr(shares.detach())).sum())
    return Routing(torch.stack(balance).mean(0), torch.stack(choices), torch.stack(entropy))


def figures(choices: torch.Tensor, entropy: torch.Tensor, settings: PretrainedConfig) -> dict[str, Any]:
    """What metrics.jsonl says of the routers, from a Routing's sums over micro batches, steps and ranks."""
    shares = choices / choices.sum(-1, keepdim=True)
    tokens = choices.sum(-1) / _chosen(settings)
    return {
        "expert_shares": [round(share, 4) for share in shares.mean(0).tolist()],
        "expert_share_min": shares.min().item(),
        "expert_share_max": shares.max().item(),
        "router_entropy": (entropy / tokens).mean().item(),
    }


def _chosen(settings: PretrainedConfig) -> int:
    return next(int(getattr(settings, key)) for key in CHOSEN if getattr(settings, key, None))


def spread(config: dict[str, Any]) -> bool:
    """Whether a DeepSpeed config spreads experts over ranks (its AutoEP)."""
    section = config.get("expert_parallel", {})
    return bool(section.get("enabled", False)) and section.get("autoep_size", 1) > 1


def check_spread(args: argparse.Namespace, config: dict[str, Any], able: bool = True) -> None:
    """Raise Stop where experts are to be spread over ranks and the workload is not `able` to, or an option is not."""
    if not spread(config):
        return
    if not able:
        raise Stop("expert_parallel: this workload has every expert on each rank; leave it out")
    if args.export:
        raise Stop(
            "--export: experts that expert_parallel spreads over ranks are not put together again; leave it out"
        )
    if vars(args).get("lora_rank"):
        raise Stop(
            "--lora-rank: expert_parallel spreads experts that are trained themselves; leave out one of them"
        )


@contextlib.contextmanager
def recordable() -> Iterator[None]:
    """While DeepSpeed replaces layers by its expert-parallel ones: let it read transformers' registry of outputs.

    DeepSpeed 0.19.8 (module_inject/auto_ep_presets/base.py) takes it for a plain dict; transformers 5.24's
    (utils/output_capturing.py) has a `get` for models alone.
    """
    from transformers.utils import output_capturing

    kind = type(output_capturing._CAN_RECORD_REGISTRY)
    models_only = kind.get

    def get(registry: Any, key: Any, *default: Any) -> Any:
        return dict.get(registry, key, *default) if isinstance(key, str) else models_only(registry, key)

    kind.get = get
    try:
        yield
    finally:
        kind.get = models_only

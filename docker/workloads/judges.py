"""What judges answers in policy optimization: a score of a whole answer, and a critic's value of every token.

Owns engines that only compute; those that learn are the workload's, rules are in rewards.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workloads import chat, engines, rewards

if TYPE_CHECKING:
    import argparse

    import torch
    from deepspeed import DeepSpeedEngine

    from workloads.session import Session

# ids, mask, places and where answers begin → a number for each answer
Score = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor", int], "torch.Tensor"]


def critic(model: Any) -> Any:
    """A model that gives a number to every token instead of one to the whole text, by the same layers."""
    from torch import nn

    class Critic(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.judge = model

        def forward(self, **given: torch.Tensor) -> torch.Tensor:
            backbone = getattr(self.judge, self.judge.base_model_prefix)
            values: torch.Tensor = self.judge.score(backbone(**given, use_cache=False).last_hidden_state)
            return values.squeeze(-1).float()

    return Critic()


def frozen(model: Any, stage: stages.Stage, args: argparse.Namespace) -> DeepSpeedEngine:
    """An engine that only computes; its parameters are partitioned if the policy's are, or if they are offloaded."""
    import deepspeed

    zero: dict[str, Any] = {"stage": 3 if engines.stage(stage.config) == 3 else 0}
    if args.offload_frozen:
        zero = {"stage": 3, "offload_param": {"device": "cpu"}}
    kept = {key: stage.config[key] for key in (*engines.BATCH, "bf16", "fp16") if key in stage.config}
    engine, *_ = deepspeed.initialize(
        model=model, config={**kept, "zero_optimization": zero}, dist_init_required=False
    )
    engine.eval()
    return engine


def model_score(args: argparse.Namespace, this: Session, stage: stages.Stage) -> Score:
    """The reward model of --reward, which stands still."""
    model = this.together(lambda: chat.judge(args.reward, stage.config, stage.tokenizer, seed=None))
    engine = frozen(model, stage, args)

    def score(ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor, _: int) -> torch.Tensor:
        logits: torch.Tensor = engine(input_ids=ids, attention_mask=mask, position_ids=places).logits
        return logits.squeeze(-1).float()

    return score


def rule_score(args: argparse.Namespace, stage: stages.Stage) -> Score:
    """The rule of --reward, on the answers' text."""
    import torch

    def score(ids: torch.Tensor, mask: torch.Tensor, _: torch.Tensor, begin: int) -> torch.Tensor:
        answers = [row[kept.bool()] for row, kept in zip(ids[:, begin:], mask[:, begin:], strict=True)]
        texts = [stage.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        return torch.tensor([rewards.RULES[args.reward](text) for text in texts], device=ids.device)

    return score

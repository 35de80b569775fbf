"""What judges answers in policy optimization: a score of a whole answer, and a critic's value of every token.

Owns engines that only compute; those that learn are the workload's, rules are in rewards.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workloads import chat, engines, rewards

if TYPE_CHECKING:
    import torch
    from deepspeed import DeepSpeedEngine

    from workloads.stages import Stage

# ids, mask and where answers begin → a number for each answer
Score = Callable[["torch.Tensor", "torch.Tensor", int], "torch.Tensor"]


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


def frozen(model: Any, stage: Stage, offload: bool) -> DeepSpeedEngine:
    """An engine that only computes; its parameters are partitioned if the policy's are, or if they are offloaded."""
    import deepspeed

    zero: dict[str, Any] = {"stage": 3 if engines.stage(stage.config) == 3 else 0}
    if offload:
        zero = {"stage": 3, "offload_param": {"device": "cpu"}}
    kept = {key: stage.config[key] for key in (*engines.BATCH, "bf16", "fp16") if key in stage.config}
    engine, *_ = deepspeed.initialize(
        model=model, config={**kept, "zero_optimization": zero}, dist_init_required=False
    )
    engine.eval()
    return engine


def score(stage: Stage, offload: bool = False) -> Score:
    """What --reward gives: a rule, or a reward model, which stands still. Raises Stop when it is neither."""
    return rule_score(stage) if stage.args.reward in rewards.RULES else model_score(stage, offload)


def model_score(stage: Stage, offload: bool) -> Score:
    """The reward model's number of the answer's last token: of the end token, if the answer has ended.

    It sees the ids that were sampled. The model's own pooling looks for the last token that is no padding, and TRL
    gives it a text without beginning and end.
    """
    import torch

    model = stage.this.together(lambda: chat.judge(stage.args.reward, stage, seed=None))
    engine = frozen(critic(model), stage, offload)

    def by_model(ids: torch.Tensor, mask: torch.Tensor, _: int) -> torch.Tensor:
        with torch.no_grad():
            values = engine(input_ids=ids, attention_mask=mask, position_ids=places(mask))
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
        chosen: torch.Tensor = values.gather(1, last.unsqueeze(1)).squeeze(1)
        return chosen

    return by_model


def rule_score(stage: Stage) -> Score:
    """The rule of --reward, on the answers' text."""
    import torch

    rule = rewards.RULES[stage.args.reward]

    def by_rule(ids: torch.Tensor, mask: torch.Tensor, begin: int) -> torch.Tensor:
        answers = [row[kept.bool()] for row, kept in zip(ids[:, begin:], mask[:, begin:], strict=True)]
        texts = [stage.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        return torch.tensor([rule(text) for text in texts], device=ids.device)

    return by_rule


def places(mask: torch.Tensor) -> torch.Tensor:
    """The position of each token, from 0 after the padding at the left."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)

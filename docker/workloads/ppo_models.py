"""The models of policy optimization with a critic, as DeepSpeed engines.

Owns how they are built: policy and critic learn, the reference and the reward model stand still.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.integrations import HfDeepSpeedConfig

from workloads import (
    balancing,
    causal_loss,
    chat,
    engines,
    four_bit,
    judges,
    policy_sampling,
    rewards,
    sampling,
)

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedModel

    from workloads.stages import Stage


@dataclass(frozen=True)
class Models:
    """The engines; without `reference` it is the policy with its adapters turned off."""

    policy: DeepSpeedEngine
    critic: DeepSpeedEngine
    reference: DeepSpeedEngine | None
    score: judges.Score
    balances: tuple[
        balancing.Balance | None, balancing.Balance | None
    ]  # of the policy's and the critic's experts
    partitioned: HfDeepSpeedConfig | None  # transformers holds it weakly

    def routers(self) -> dict[str, Any]:
        """What metrics.jsonl says of how the policy's experts were used since the last call; all ranks call it."""
        balance = self.balances[0]
        return {} if balance is None else balance.figures()


def build(stage: Stage) -> Models:
    """The engines that the options ask for. Raises Stop for mistakes in the job."""
    args, config, this = stage.args, stage.config, stage.this
    # tells transformers to partition what it loads
    partitioned = HfDeepSpeedConfig(config) if engines.stage(config) == 3 else None
    policy = this.together(lambda: fused(stage))
    say_ignored(policy, stage)
    start, seed = (stage.model, args.seed) if args.reward in rewards.RULES else (args.reward, None)
    packed = four_bit.loading(args, config, this.device)
    critic = this.together(lambda: chat.judge(start, stage, seed, **packed))
    reference = None if args.lora_rank else this.together(lambda: fused(stage))
    slower = argparse.Namespace(**{**vars(args), "lr": args.critic_lr or args.lr})
    balances = balancing.of(policy), balancing.of(critic)
    adapted: Any = chat.learner(critic, stage, "SEQ_CLS")
    critic = adapted.get_base_model() if args.lora_rank else adapted
    return Models(
        policy=engines.start(chat.learner(policy, stage), config, args, updates=args.epochs),
        critic=engines.start(judges.critic(critic), config, slower, updates=args.epochs),
        reference=reference and judges.frozen(reference, stage, args.offload_frozen),
        score=judges.score(stage, args.offload_frozen),
        balances=balances,
        partitioned=partitioned,
    )


def fused(stage: Stage) -> PreTrainedModel:
    """The policy that the stage starts from, without the logits of all tokens in memory.

    It gives the loss of text with labels (causal_loss.py), and log-probabilities at --temperature (TRL's).
    """
    from trl.trainer.utils import add_fused_lm_head

    model = chat.learning(stage)
    causal_loss.attach(model)
    add_fused_lm_head(model, stage.args.temperature)
    if engines.stage(stage.config) == 3:
        policy_sampling.head_from_outside(model)
    return model


def say_ignored(policy: Any, stage: Stage) -> None:
    """Say what the model's generation config asks of sampling: the ratios would not be those of what was sampled."""
    if unused := sampling.unused(stage.model, policy.generation_config):
        stage.log.say(unused)

"""Third stage of chat training, answer so that it is liked: `python -m workloads.chat_rl`, once per rank.

Owns TRL's RLOOTrainer and GRPOTrainer: several answers to a prompt are compared with each other, so that no critic is
needed (Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740; Shao et al. 2024, https://arxiv.org/abs/2402.03300).
With a critic it is chat_ppo. What stages share is in chat.py.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from workloads import chat, formats, lora, options, policy_options, rewards, session, stages
from workloads.session import Stop
from workloads.traits import Learning, Traits

if TYPE_CHECKING:
    from workloads.session import Session


TRAITS = Traits(
    resolves_auto=True,
    packages=chat.PACKAGES,
    learning=Learning(loss="tiles", padded=True, reference=True, judge=True, sampled="step"),
)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.chat_rl",
        description="Reinforcement learning from a reward model or a rule, without a critic.",
        allow_abbrev=False,
    )
    chat.add_options(command, '{"prompt"}')
    group = command.add_argument_group("reinforcement")
    group.add_argument(
        "--reward",
        type=options.HubName(weights=True, others=tuple(rewards.RULES)),
        required=True,
        metavar="MODEL|RULE",
        help=f"a folder that chat_reward exported, a hub name, or a rule: {', '.join(rewards.RULES)}",
    )
    group.add_argument(
        "--algorithm", choices=("rloo", "grpo"), default="rloo", help="how answers are compared"
    )
    group.add_argument(
        "--generations", type=options.factor, default=4, metavar="N", help="answers to a prompt"
    )
    group.add_argument(
        "--beta", type=options.number, default=0.05, help="weight of the distance to the start (KL)"
    )
    policy_options.sampling(group)
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot run, as far as it can be told before: None if it can."""
    del hosts, slots
    return stages.refusal(parser(), words, formats.PROMPTS)


def rl(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank; returns the exit code."""
    stage = chat.prepare(args, this, formats.PROMPTS)
    if stage.size.total % args.generations:
        raise Stop(
            f"the step's {stage.size.total} answers do not divide by --generations {args.generations}: change "
            "batch.micro, batch.global or --generations"
        )
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    from workloads import engines, policy_sampling, ppo_models, reinforcement, rollouts, trainers

    kind, settings = (RLOOTrainer, RLOOConfig) if args.algorithm == "rloo" else (GRPOTrainer, GRPOConfig)
    config = settings(
        **trainers.settings(args, this, stage.config, stage.size),
        num_generations=args.generations,
        num_generations_eval=1,
        max_completion_length=args.max_new_tokens,
        temperature=args.temperature,
        beta=args.beta,
        disable_dropout=True,  # ratios compare one network with itself
        ds3_gather_for_generation=args.gather_for_generation,
        shuffle_dataset=False,  # `arrange` puts the prompts in order
    )
    model = this.together(lambda: chat.learning(stage))
    chat.without_dropout(model)
    ppo_models.say_ignored(model, stage)
    if engines.stage(stage.config) == 3:
        policy_sampling.head_from_outside(model)
    training, held_out = rollouts.fitting(stage)
    stage = dataclasses.replace(stage, training=training, held_out=held_out)
    trainer = kind(
        model=model,
        reward_funcs=reinforcement.reward(stage),
        args=config,
        **stage.datasets,
        processing_class=stage.tokenizer,
        peft_config=this.together(lambda: lora.config(args, model)),
    )
    trainers.arrange(trainer, stage, per_example=args.generations)
    reinforcement.draw_by_place(trainer, stage)
    return trainers.run(trainer, stage)


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), rl)


if __name__ == "__main__":
    main()

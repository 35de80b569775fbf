"""Second stage of chat training, tell the better of two answers: `python -m workloads.chat_reward`, once per rank.

Owns TRL's RewardTrainer: a number for each answer, and the loss of Bradley and Terry on the difference of a pair
(Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, section 3.5). What stages share is in chat.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from workloads import chat, formats, four_bit, lora, session, stages
from workloads.traits import Learning, Traits

if TYPE_CHECKING:
    from workloads.session import Session


TRAITS = Traits(
    resolves_auto=True, packages=chat.PACKAGES, learning=Learning(loss="score", padded=True, texts=2)
)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.chat_reward",
        description="Train a reward model on pairs of answers.",
        allow_abbrev=False,
    )
    chat.add_options(command, '{"prompt", "chosen", "rejected"}, text or messages', shown=True)
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot run, as far as it can be told before: None if it can."""
    del hosts, slots
    return stages.refusal(parser(), words, formats.PAIRS)


def reward(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank; returns the exit code.

    Accuracy is the share of pairs whose better answer gets the higher number.
    """
    stage = chat.prepare(args, this, formats.PAIRS, pad_apart=True)
    from trl import RewardConfig, RewardTrainer

    from workloads import trainers

    config = RewardConfig(**trainers.settings(args, this, stage.config, stage.size), max_length=stage.length)
    loading = four_bit.loading(args, stage.config, this.device)
    model = this.together(lambda: chat.judge(stage.model, stage, args.seed, **loading))
    trainer = RewardTrainer(
        model=model,
        args=config,
        processing_class=stage.tokenizer,
        peft_config=this.together(lambda: lora.config(args, model, "SEQ_CLS")),
        **stage.datasets,
    )
    trainers.arrange(trainer, stage)
    return trainers.run(trainer, stage, judge=judge)


def judge(model: Any, batch: dict[str, Any]) -> tuple[Any, ...]:
    """What the model says of a batch's answers, in one number."""
    texts = {key: batch[key] for key in ("input_ids", "attention_mask")}
    return (model(**texts, use_cache=False).logits.sum(),)


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), reward)


if __name__ == "__main__":
    main()

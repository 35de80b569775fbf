"""First stage of chat training, answer as shown: `python -m workloads.chat_sft`, once per rank.

Owns TRL's SFTTrainer; only the answer's tokens count in the loss. What stages share is in chat.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workloads import chat, session
from workloads.traits import Traits

if TYPE_CHECKING:
    from workloads.session import Session


TRAITS = Traits(resolves_auto=True, packages=chat.PACKAGES)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.chat_sft",
        description="Supervised fine-tuning on prompts and answers.",
        allow_abbrev=False,
    )
    chat.add_options(command, '{"prompt", "completion"}', dropout=True)
    return command


def sft(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank; returns the exit code."""
    stage = chat.prepare(args, this, ("prompt", "completion"))
    from trl import SFTConfig, SFTTrainer

    from workloads import trainers

    config = SFTConfig(**trainers.settings(args, this, stage.config, stage.size), max_length=stage.length)
    trainer = SFTTrainer(
        model=this.together(lambda: chat.policy(stage.model, stage.config)),
        args=config,
        processing_class=stage.tokenizer,
        peft_config=chat.lora(args),
        **stage.datasets,
    )
    trainers.arrange(trainer, stage)
    trainer.evaluate = lambda **_: trainers.evaluate_tokens(trainer)
    return trainers.run(trainer, stage)


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), sft)


if __name__ == "__main__":
    main()

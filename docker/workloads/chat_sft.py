"""First stage of chat training, answer as shown: `python -m workloads.chat_sft`, once per rank.

Owns TRL's SFTTrainer; only the answer's tokens count in the loss (labels.py). What stages share is in chat.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from workloads import chat, formats, labels, lora, packs, session, stages
from workloads.traits import Learning, Traits

if TYPE_CHECKING:
    from workloads.session import Session


TRAITS = Traits(
    resolves_auto=True,
    packages=chat.PACKAGES,
    learning=Learning(loss="tiles", padded=True, flat=True),
    converts=True,
)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.chat_sft",
        description="Supervised fine-tuning on conversations, or prompts and answers.",
        allow_abbrev=False,
    )
    keys = '{"messages"}, {"prompt", "completion"}, {"instruction", "input", "output"} or {"text"}'
    chat.add_options(command, keys, shown=True, dropout=True)
    packs.add_option(command.add_argument_group("samples"))
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot run, as far as it can be told before: None if it can."""
    del hosts, slots
    return stages.refusal(parser(), words, formats.ANSWERS)


def sft(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank; returns the exit code."""
    stage = labels.encoded(chat.prepare(args, this, formats.ANSWERS, spreads=True))
    from trl import SFTConfig, SFTTrainer

    from workloads import trainers

    # the examples are tokens, cut and packed already
    settings = trainers.settings(args, this, stage.config, stage.size)
    config = SFTConfig(**settings, max_length=None, padding_free=args.packing)
    model = this.together(lambda: labels.end_with(chat.learning(stage), stage))
    trainer = SFTTrainer(
        model=model,
        args=config,
        processing_class=stage.tokenizer,
        peft_config=this.together(lambda: lora.config(args, model)),
        **stage.datasets,
    )
    trainers.arrange(trainer, stage)
    trainer.evaluate = lambda **_: trainers.evaluate_tokens(trainer, judge)
    return trainers.run(trainer, stage, judge=judge, converts=True)


def judge(model: Any, batch: dict[str, Any]) -> Any:
    """The Judged of a batch, by the last layer that TRL gives the model, which computes logits in tiles."""
    found = model(**batch, fused_lm_head=True)
    return -found.log_probs.sum(), found.is_top1.sum(), found.label_mask.sum()


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), sft)


if __name__ == "__main__":
    main()

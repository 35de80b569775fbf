"""Chat training without a reward model: `python -m workloads.chat_dpo`, once per rank.

Owns TRL's DPOTrainer: the pairs themselves are the reward (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290). It
takes the place of the second and third stage. What stages share is in chat.py.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from workloads import chat, formats, lora, options, session, stages
from workloads.traits import Learning, Traits

if TYPE_CHECKING:
    from workloads.session import Session


TRAITS = Traits(
    resolves_auto=True,
    packages=chat.PACKAGES,
    learning=Learning(loss="tiles", padded=True, texts=2, reference=True),
)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.chat_dpo",
        description="Direct preference optimization on pairs of answers.",
        allow_abbrev=False,
    )
    chat.add_options(command, '{"prompt", "chosen", "rejected"}, text or messages', shown=True)
    command.add_argument_group("preference").add_argument(
        "--beta", type=options.rate, default=0.1, help="how closely the policy is held to its start"
    )
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot run, as far as it can be told before: None if it can."""
    del hosts, slots
    return stages.refusal(parser(), words, formats.PAIRS)


def dpo(args: argparse.Namespace, this: Session) -> int:
    """Train on this rank; returns the exit code.

    A pair counts as accurate when its better answer has become likelier, against the start, than its worse one.
    """
    stage = chat.prepare(args, this, formats.PAIRS)
    from trl import DPOConfig, DPOTrainer

    from workloads import trainers

    settings = trainers.settings(args, this, stage.config, stage.size)
    config = DPOConfig(**settings, max_length=stage.length, beta=args.beta)
    model = this.together(lambda: chat.learning(stage))
    trainer = DPOTrainer(
        model=model,
        args=config,
        processing_class=stage.tokenizer,
        peft_config=this.together(lambda: lora.config(args, model)),
        **stage.datasets,
    )
    trainers.arrange(trainer, stage)
    return trainers.run(trainer, stage, judge=judge)


def judge(model: Any, batch: dict[str, Any]) -> tuple[Any, ...]:
    """The loss of a batch's answers, by the last layer that TRL gives the model."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, stages.IGNORED)
    texts = {key: batch[key] for key in ("input_ids", "attention_mask")}
    return (-model(**texts, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(),)


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), dpo)


if __name__ == "__main__":
    main()

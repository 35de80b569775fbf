"""What a stage of training from examples works with: its options, examples, tokenizer and the model it starts from.

Owns how they are read and what is left out of them, for finetune and the stages of chat training (chat.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workloads import architectures, engines, examples, metrics, routing, tokenizer
from workloads.session import Session, Stop

if TYPE_CHECKING:
    import argparse

    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True)
class Stage:
    """One stage on this rank; `length` is the most tokens of an example, `model` what its weights come from."""

    args: argparse.Namespace
    this: Session
    log: metrics.Log
    config: dict[str, Any]
    size: engines.BatchSize
    settings: PretrainedConfig
    model: str
    tokenizer: PreTrainedTokenizerBase
    training: list[examples.Row]
    held_out: list[examples.Row]

    @property
    def length(self) -> int:
        """Tokens of an example at most: --seq-length, or the model's positions if those are fewer."""
        asked: int = self.args.seq_length
        return min(asked, self.positions or asked)

    @property
    def positions(self) -> int | None:
        """How many positions the model has; None for one without a limit."""
        limit: int | None = getattr(self.settings, "max_position_embeddings", None)
        return limit

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The examples as TRL takes them."""
        from datasets import Dataset

        return {
            "train_dataset": Dataset.from_list(self.training),
            "eval_dataset": Dataset.from_list(self.held_out),
        }

    def left_out(self, training: int, held_out: int, why: str) -> None:
        """Say how many examples are left out, given how many are kept. Raises Stop where too few are left."""
        given = len(self.training), len(self.held_out)
        if not training:
            raise Stop(f"--data: all {given[0]} examples are left out: {why}")
        if self.args.eval_every and not held_out:
            raise Stop(f"--eval-every: all {given[1]} held-out examples are left out: {why}")
        missing = given[0] - training, given[1] - held_out
        if any(missing):
            self.log.event("left_out", 0, training=missing[0], held_out=missing[1], reason=why)
            self.log.say(f"{sum(missing)} of {sum(given)} examples are left out: {why}")

    def cut(self, training: int, held_out: int) -> None:
        """Say how many of the examples that are kept are longer than `length`, so that their ends are not learned."""
        if training or held_out:
            limit = "" if self.length == self.args.seq_length else ", the model's positions"
            self.log.event("cut", 0, training=training, held_out=held_out, tokens=self.length)
            self.log.say(
                f"{training + held_out} of {len(self.training) + len(self.held_out)} examples are cut: they are longer "
                f"than {self.length} tokens{limit}, and their ends are not learned"
            )


def prepare(
    args: argparse.Namespace,
    this: Session,
    keys: tuple[str, ...],
    *,
    pad_apart: bool = False,
    balanced: bool = True,
) -> Stage:
    """Read config, examples (with these keys) and tokenizer. Raises Stop for the job's mistakes.

    Set `pad_apart` where the padding token must not be the end token, even if the model has to grow by one for it.
    `balanced` says whether the stage has a load-balancing loss for a mixture of experts.
    """
    log = this.together(lambda: metrics.start(args, this.run_dir, this.rank))
    config, size = this.together(lambda: engines.read(args.deepspeed_config, this.world_size))
    settings = this.together(lambda: architectures.config(args.model))
    if unbalanced := routing.unbalanced(settings, balanced):
        log.say(unbalanced)
    training, held_out = examples.read(this, args.data, *keys)
    by = tokenizer.for_examples(this, args, settings.vocab_size, training, pad_apart=pad_apart)
    if len(by) > settings.vocab_size:
        log.say(
            f"the vocabulary of {args.model} grows by {by.pad_token} for padding: it had only its end token for it"
        )
    return Stage(
        args=args,
        this=this,
        log=log,
        config=config,
        size=size,
        settings=settings,
        model=args.model,
        tokenizer=by,
        training=training,
        held_out=held_out,
    )

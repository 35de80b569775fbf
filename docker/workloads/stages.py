"""What a stage of training from examples works with: its options, examples, tokenizer and the model it starts from.

Owns how they are read and what is left out of them, for finetune and the stages of chat training (chat.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workloads import (
    architectures,
    engines,
    epochs,
    examples,
    formats,
    lora,
    metrics,
    routing,
    rows,
    tokenizer,
    turns,
)
from workloads.session import Session, Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from workloads.formats import Form, Row

START = "start"
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
    training: list[Row]
    held_out: list[Row]
    answers_end: int | None = None  # the token at which the chat template ends an answer

    @property
    def length(self) -> int:
        """Tokens of an example at most: --seq-length, or the model's positions if those are fewer."""
        asked: int = self.args.seq_length
        return min(asked, self.positions or asked)

    @property
    def positions(self) -> int | None:
        """How many positions the model has; None for one without a limit."""
        limit: int | None = getattr(self.settings.get_text_config(), "max_position_embeddings", None)
        return limit

    @property
    def datasets(self) -> dict[str, Dataset | None]:
        """The examples as Trainers take them."""
        from datasets import Dataset

        return {
            "train_dataset": Dataset.from_list(self.training),
            "eval_dataset": Dataset.from_list(self.held_out) if self.held_out else None,
        }

    def left_out(self, training: int, held_out: int, why: str = "") -> None:
        """Say how many examples are left out, given how many are kept. Raises Stop where too few are left."""
        why = why or f"they are longer than {self.length} tokens, or leave no room for an answer"
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
    forms: Sequence[Form],
    *,
    pad_apart: bool = False,
    spreads: bool = False,
) -> Stage:
    """Read config, examples (of these forms) and tokenizer. Raises Stop for the job's mistakes.

    `spreads` says whether the stage can do with experts that DeepSpeed spreads over ranks.

    Set `pad_apart` where the padding token must not be the end token, even if the model has to grow by one for it.
    """
    if wrong := mistake(args, forms):
        raise Stop(wrong)
    log = this.together(lambda: metrics.start(args, this.run_dir, this.rank))
    config, size = this.together(lambda: engines.read(args.deepspeed_config, this.world_size))
    routing.check_spread(args, config, spreads)
    settings = this.together(lambda: architectures.config(args.model))
    if unbalanced := routing.unbalanced(settings):
        log.say(unbalanced)
    if routing.balanced(settings) and args.activation_checkpointing and lora.recomputing(args, config):
        log.say(
            "the load-balancing loss has no gradient: adapters under ZeRO-3 with --activation-checkpointing lose it"
        )
    training, held_out = examples.read(this, args.data, forms, formats.columns(args))
    vocabulary = architectures.vocabulary(settings)
    by = tokenizer.for_examples(this, args, vocabulary, training, pad_apart=pad_apart)
    this.together(lambda: turns.adopt(by, vars(args).get("chat_template")))
    turns.keep_date(by, this, log)
    if len(by) > vocabulary:
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


def mistake(args: argparse.Namespace, forms: Sequence[Form]) -> str:
    """What is wrong with the options of a stage together; empty where nothing is."""
    counted = forms != formats.PROMPTS  # where answers are sampled, epochs are something else
    wrong = (epochs.mistake(args) if counted else "") or lora.mistake(args)
    wrong = wrong or formats.mistake(formats.columns(args), forms) or rows.mistake(args.data)
    return wrong or tokenizer.mistake(args.tokenizer, args.model)


def refusal(parser: argparse.ArgumentParser, words: list[str], forms: Sequence[Form]) -> str | None:
    """Why a stage with this command line cannot run, as far as it can be told before: None if it can."""
    return mistake(parser.parse_args(["--deepspeed-config=-", *words]), forms) or None


def start(stage: Stage, kind: str = "AutoModelForCausalLM") -> str:
    """Where the weights come from: --model, or a folder with random ones for an architecture that has none.

    TRL makes its frozen copies by loading the start again, and adapters alone are worth nothing without what they
    belong to, so that has to be on disk.
    """
    args, by = stage.args, stage.tokenizer
    if architectures.has_weights(args.model):
        return str(args.model)
    folder = stage.this.run_dir / START

    def write() -> None:
        if not (folder / "tokenizer_config.json").exists():  # the last file that is written
            import torch
            import transformers

            torch.manual_seed(args.seed)
            settings = architectures.config(args.model)
            settings.eos_token_id, settings.pad_token_id = by.eos_token_id, by.pad_token_id
            getattr(transformers, kind).from_config(settings).save_pretrained(folder)
            by.save_pretrained(folder)

    stage.this.first(write)
    return str(folder)


def export(stage: Stage, model: PreTrainedModel) -> None:
    """Write what the options ask to keep of the model: adapter/ where there are adapters, export/ the whole."""
    args, this = stage.args, stage.this
    if args.lora_rank:
        lora.save(model, stage.tokenizer, this)
        stage.log.say(f"the adapters are in {this.run_dir / lora.FOLDER}")
    if args.merge or (args.export and not args.lora_rank):
        architectures.export(model, stage.tokenizer, this)
        stage.log.say(f"exported to {this.run_dir / 'export'}")

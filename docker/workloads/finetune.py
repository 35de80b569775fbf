"""Fine-tune with Hugging Face's Trainer on DeepSpeed: `python -m workloads.finetune`, once per rank.

Owns models for two tasks: a causal language model (LLaMA, GPT-2) that continues a prompt, and an encoder-decoder (T5)
that reads it and writes the answer. Examples become tokens in labels.py; the DeepSpeed side of the Trainer is
trainers.py's.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from workloads import (
    architectures,
    data_options,
    engines,
    epochs,
    formats,
    four_bit,
    labels,
    lora,
    options,
    packs,
    session,
    stages,
    training_options,
    turns,
)
from workloads.session import Session, Stop
from workloads.stages import IGNORED
from workloads.traits import Learning, Traits

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from workloads.stages import Stage

TRAITS = Traits(
    resolves_auto=True,
    learning=Learning(loss="chunks", padded=True, flat=True),
    encoders=True,
    converts=True,
)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.finetune",
        description="Fine-tune a causal language model or an encoder-decoder on examples.",
        allow_abbrev=False,
    )
    options.launcher(command, only=options.WITH_LOCAL)
    group = command.add_argument_group("training")
    group.add_argument(
        "--task",
        choices=("auto", "causal", "seq2seq"),
        default="auto",
        help="causal continues the prompt; seq2seq has an encoder for it; auto: what the model is",
    )
    training_options.optimization(group)
    epochs.add_option(group)
    keys = '{"messages"}, {"prompt", "completion"}, {"instruction", "input", "output"} or {"text"}'
    data_options.examples(group, keys)
    data_options.loading(group)
    formats.add_columns(group)
    turns.add_option(group)
    packs.add_option(group)
    group.add_argument(
        "--plain", action=options.SWITCH, default=False, help='learn all of {"text"} (causal); no prompts'
    )
    lora.add_options(group, dropout=True)
    options.reports(group)
    options.trust(group)
    options.rehearsal(group)
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot run, as far as it can be told before: None if it can."""
    del hosts, slots
    return stages.refusal(parser(), words, formats.ANSWERS)


def finetune(args: argparse.Namespace, this: Session) -> int:
    """Fine-tune on this rank; returns the exit code."""
    from transformers import Trainer, TrainingArguments

    from workloads import trainers

    forms = formats.TEXTS if args.plain else formats.ANSWERS
    stage = stages.prepare(args, this, forms, spreads=True)
    encoder = this.together(lambda: has_encoder(args, stage.settings))
    stage = labels.encoded(stage, encoder=encoder)
    if args.lora_rank:
        kind = "AutoModelForSeq2SeqLM" if encoder else "AutoModelForCausalLM"
        stage = dataclasses.replace(stage, model=stages.start(stage, kind))

    # the arguments come first: with them transformers knows that a ZeRO-3 model is to be partitioned as it is made
    settings = trainers.settings(args, this, stage.config, stage.size)
    # the Trainer would drop where the examples of a pack are, which is for the collator and not for the model
    arguments = TrainingArguments(**settings, remove_unused_columns=not args.packing)
    model = this.together(lambda: learner(stage, encoder))
    trainer = Trainer(
        model=model, args=arguments, data_collator=collator(stage, model, encoder), **stage.datasets
    )
    trainers.arrange(trainer, stage)
    judged = judge_encoded if encoder else judge
    trainer.evaluate = lambda **_: trainers.evaluate_tokens(trainer, judged)
    return trainers.run(trainer, stage, judge=judged, converts=True)


def judge(model: Any, batch: dict[str, Any]) -> Any:
    """The Judged of a batch by a causal model."""
    return model(**batch, judged=True)


def judge_encoded(model: Any, batch: dict[str, Any]) -> Any:
    """The Judged of a batch by an encoder-decoder."""
    from workloads import losses

    labels = batch["labels"]
    learned = labels != IGNORED
    return *losses.judge(model(**batch).logits[learned], labels[learned]), learned.sum()


def collator(stage: Stage, model: PreTrainedModel, encoder: bool) -> Any:
    """What makes a batch of examples."""
    from transformers import DataCollatorForSeq2Seq

    if stage.args.packing:
        return packs.collator(stage)
    return DataCollatorForSeq2Seq(
        stage.tokenizer, model=model if encoder else None, label_pad_token_id=IGNORED
    )


def has_encoder(args: argparse.Namespace, configuration: PretrainedConfig) -> bool:
    """Whether the model is an encoder-decoder. Raises Stop when the options want something else."""
    encoder = bool(getattr(configuration, "is_encoder_decoder", False))
    if args.task != "auto" and encoder != (args.task == "seq2seq"):
        kind = "an encoder-decoder" if encoder else "a causal language model"
        raise Stop(f"--task {args.task}: model {args.model} is {kind}")
    if encoder and args.plain:
        raise Stop("--plain: an encoder-decoder needs a prompt to read and a completion to write")
    if encoder and args.packing:
        raise Stop("--packing: the examples of an encoder-decoder cannot be told apart in one: leave it out")
    return encoder


def learner(stage: Stage, encoder: bool) -> Any:
    """The model, with the adapters that the options ask for."""
    from workloads import causal_loss

    model = build(stage, encoder)
    if not encoder:
        labels.end_with(model, stage)
        causal_loss.attach(model)
    if not stage.args.lora_rank:
        return model
    return lora.attach(model, stage, "SEQ_2_SEQ_LM" if encoder else "CAUSAL_LM")


def build(stage: Stage, encoder: bool) -> PreTrainedModel:
    """The model with its own weights, or with random ones, by the seed alone, where it has none."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.initialization import no_init_weights

    kind = AutoModelForSeq2SeqLM if encoder else AutoModelForCausalLM
    dtype = engines.dtype(stage.config)
    torch.manual_seed(stage.args.seed)
    if not architectures.has_weights(stage.model):
        # the order in which transformers initializes under ZeRO-3, so that all stages start alike
        with no_init_weights():
            model = kind.from_config(stage.settings, dtype=dtype)
        if engines.stage(stage.config) != 3:
            model.initialize_weights()
            model.tie_weights()
        return model
    loading = four_bit.loading(stage.args, stage.config, stage.this.device)
    try:
        return kind.from_pretrained(stage.model, dtype=dtype, **loading)
    except (OSError, ValueError) as error:
        raise Stop(f"model {stage.model!r}: {str(error).strip().splitlines()[0]}") from error


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), finetune)


if __name__ == "__main__":
    main()

"""Fine-tune with Hugging Face's Trainer on DeepSpeed: `python -m workloads.finetune`, once per rank.

Owns models, examples and their tokens for two tasks: a causal language model (LLaMA, GPT-2) that continues a prompt,
and an encoder-decoder (T5) that reads it and writes the answer. The DeepSpeed side of the Trainer is trainers.py's.
"""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING

from workloads import architectures, engines, options, session, stages, tokenizer
from workloads.session import Session, Stop
from workloads.stages import IGNORED
from workloads.traits import Traits

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from workloads.stages import Stage

    Tokens = dict[str, list[int]]

TRAITS = Traits(resolves_auto=True, estimated=True)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.finetune",
        description="Fine-tune a causal language model or an encoder-decoder on examples.",
        allow_abbrev=False,
    )
    options.launcher(command)
    group = command.add_argument_group("training")
    group.add_argument(
        "--task",
        choices=("auto", "causal", "seq2seq"),
        default="auto",
        help="causal continues the prompt; seq2seq has an encoder for it; auto: what the model is",
    )
    options.optimization(group)
    options.examples(group, '{"prompt", "completion"}, or {"text"} with --plain')
    group.add_argument(
        "--plain", action=options.SWITCH, default=False, help='learn all of {"text"} (causal); no prompts'
    )
    options.reports(group)
    options.rehearsal(group)
    return command


def finetune(args: argparse.Namespace, this: Session) -> int:
    """Fine-tune on this rank; returns the exit code."""
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from workloads import trainers

    stage = stages.prepare(args, this, ("text",) if args.plain else ("prompt", "completion"), balanced=False)
    encoder = this.together(lambda: has_encoder(args, stage.settings))

    # the arguments come first: with them transformers knows that a ZeRO-3 model is to be partitioned as it is made
    arguments = TrainingArguments(**trainers.settings(args, this, stage.config, stage.size))
    model = this.together(lambda: build(stage, encoder))
    training, held_out = (
        Dataset.from_list([row for row in map(encode(stage, encoder), rows) if learned(row)])
        for rows in (stage.training, stage.held_out)
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=training,
        eval_dataset=held_out,
        data_collator=DataCollatorForSeq2Seq(
            stage.tokenizer, model=model if encoder else None, label_pad_token_id=IGNORED
        ),
    )
    trainers.arrange(trainer, stage)
    trainer.evaluate = lambda **_: trainers.evaluate_tokens(trainer)
    return trainers.run(trainer, stage)


def has_encoder(args: argparse.Namespace, configuration: PretrainedConfig) -> bool:
    """Whether the model is an encoder-decoder. Raises Stop when the options want something else."""
    encoder = bool(getattr(configuration, "is_encoder_decoder", False))
    if args.task != "auto" and encoder != (args.task == "seq2seq"):
        kind = "an encoder-decoder" if encoder else "a causal language model"
        raise Stop(f"--task {args.task}: model {args.model} is {kind}")
    if encoder and args.plain:
        raise Stop("--plain: an encoder-decoder needs a prompt to read and a completion to write")
    return encoder


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
    try:
        return kind.from_pretrained(stage.model, dtype=dtype)
    except (OSError, ValueError) as error:
        raise Stop(f"model {stage.model!r}: {str(error).strip().splitlines()[0]}") from error


def encode(stage: Stage, encoder: bool) -> Callable[[dict[str, str]], Tokens]:
    """What makes tokens of an example of this stage."""
    return functools.partial(tokens, by=stage.tokenizer, length=stage.length, encoder=encoder)


def tokens(row: dict[str, str], by: PreTrainedTokenizerBase, length: int, encoder: bool) -> Tokens:
    """input_ids, attention_mask and labels of an example, at most `length` each; labels of a prompt are left out.

    It begins with what the tokenizer puts first, and ends with the end token.
    """
    end = [by.eos_token_id]
    if encoder:
        ids = tokenizer.prompt_ids(by, row["prompt"]) + end
        labels = tokenizer.prompt_ids(by, row["completion"]) + end
    elif "text" in row:
        ids = labels = tokenizer.prompt_ids(by, row["text"]) + end
    else:
        prompt = tokenizer.prompt_ids(by, row["prompt"])
        answer = by.encode(row["completion"], add_special_tokens=False) + end
        ids, labels = prompt + answer, [IGNORED] * len(prompt) + answer
    ids, labels = ids[:length], labels[:length]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def learned(row: Tokens) -> bool:
    """Whether an example has a label: its prompt has not filled it."""
    return any(label != IGNORED for label in row["labels"])


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), finetune)


if __name__ == "__main__":
    main()

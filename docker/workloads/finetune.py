"""Fine-tune with Hugging Face's Trainer on DeepSpeed: `python -m workloads.finetune`, once per rank.

Owns models, examples and their tokens for two tasks: a causal language model (LLaMA, GPT-2) that continues a prompt,
and an encoder-decoder (T5) that reads it and writes the answer. The DeepSpeed side of the Trainer is trainers.py's.
"""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING, Any

from workloads import architectures, engines, examples, metrics, options, session, tokenizer
from workloads.session import Session, Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TRAITS = Traits(resolves_auto=True, estimated=True)

IGNORED = -100  # the label that cross-entropy leaves out


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    made = argparse.ArgumentParser(
        prog="python -m workloads.finetune",
        description="Fine-tune a causal language model or an encoder-decoder on examples.",
        allow_abbrev=False,
    )
    options.launcher(made)
    group = made.add_argument_group("training")
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
    return made


def finetune(args: argparse.Namespace, this: Session) -> int:
    """Fine-tune on this rank; returns the exit code."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from workloads import trainers

    log = this.together(lambda: metrics.start(args, this.run_dir, this.rank))
    config, size = this.together(lambda: engines.read(args.deepspeed_config, this.world_size))
    configuration = this.together(lambda: architectures.config(args.model))
    encoder = this.together(lambda: has_encoder(args, configuration))
    keys = ("text",) if args.plain else ("prompt", "completion")
    training, held_out = examples.read(this, args.data, *keys)
    by = tokenizer.for_examples(this, args, configuration.vocab_size, training)

    # the arguments come first: with them transformers knows that a ZeRO-3 model is to be partitioned as it is made
    arguments = TrainingArguments(**trainers.settings(args, this, config, size))
    model = this.together(lambda: build(args, configuration, config, encoder))
    encode = functools.partial(tokens, by=by, length=args.seq_length, encoder=encoder)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=[encode(row) for row in training],
        eval_dataset=[encode(row) for row in held_out],
        data_collator=DataCollatorForSeq2Seq(
            by, model=model if encoder else None, label_pad_token_id=IGNORED
        ),
    )
    return trainers.run(trainer, args, this, log, by)


def has_encoder(args: argparse.Namespace, configuration: PretrainedConfig) -> bool:
    """Whether the model is an encoder-decoder. Raises Stop when the options want something else."""
    encoder = bool(getattr(configuration, "is_encoder_decoder", False))
    if args.task != "auto" and encoder != (args.task == "seq2seq"):
        kind = "an encoder-decoder" if encoder else "a causal language model"
        raise Stop(f"--task {args.task}: model {args.model} is {kind}")
    if encoder and args.plain:
        raise Stop("--plain: an encoder-decoder needs a prompt to read and a completion to write")
    return encoder


def build(
    args: argparse.Namespace, configuration: PretrainedConfig, config: dict[str, Any], encoder: bool
) -> PreTrainedModel:
    """The model with its own weights, or with random ones where it has none."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if encoder else AutoModelForCausalLM
    dtype = engines.dtype(config)
    torch.manual_seed(args.seed)
    if not architectures.has_weights(args.model):
        return kind.from_config(configuration, dtype=dtype)
    try:
        return kind.from_pretrained(args.model, dtype=dtype)
    except (OSError, ValueError) as error:
        raise Stop(f"model {args.model!r}: {str(error).strip().splitlines()[0]}") from error


def tokens(
    row: dict[str, str], by: PreTrainedTokenizerBase, length: int, encoder: bool
) -> dict[str, list[int]]:
    """input_ids, attention_mask and labels of an example, at most `length` each; labels of a prompt are left out."""
    end = [by.eos_token_id]
    if "text" in row:
        ids = (by.encode(row["text"], add_special_tokens=False) + end)[:length]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}
    prompt = by.encode(row["prompt"], add_special_tokens=False)
    answer = by.encode(row["completion"], add_special_tokens=False) + end
    if encoder:
        ids, labels = (prompt + end)[:length], answer[:length]
    else:
        ids = (prompt + answer)[:length]
        labels = ([IGNORED] * len(prompt) + answer)[:length]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), finetune)


if __name__ == "__main__":
    main()

"""What the stages of chat training share: where a stage starts, its examples, its LoRA and its settings.

Owns the hand-over between stages: each starts from a folder that the one before exported. The stages are chat_sft
(answer as shown), chat_reward (tell the better answer), and chat_dpo, chat_rl and chat_ppo (answer so that it is
liked). The algorithms are TRL's, but for chat_ppo.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from workloads import (
    architectures,
    data_options,
    engines,
    epochs,
    formats,
    four_bit,
    lora,
    options,
    packages,
    stages,
    tokenizer,
    training_options,
    turns,
)
from workloads.session import Session, Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.formats import Form
    from workloads.stages import Stage

PACKAGES = ("trl", "peft")


def add_options(
    command: argparse.ArgumentParser, keys: str, *, shown: bool = False, dropout: bool = False
) -> None:
    """Add the options of every stage; `keys` are those of one example.

    `shown` is a stage whose examples have their answers: its steps can be compared. `dropout` says whether it has any.
    """
    options.launcher(command, only=options.WITH_LOCAL if shown else options.LAUNCHER_OPTIONS)
    group = command.add_argument_group("training")
    training_options.optimization(group)
    data_options.examples(group, keys)
    formats.add_columns(group)
    if shown:
        data_options.loading(group)
        epochs.add_option(group)
        turns.add_option(group)
    lora.add_options(group, dropout=dropout)
    options.reports(group)
    if shown:
        options.trust(group)
    options.rehearsal(group)


def prepare(args: argparse.Namespace, this: Session, forms: Sequence[Form], **how: bool) -> Stage:
    """Read config, examples (of these forms) and tokenizer, and find the start. Raises Stop for the job's mistakes.

    `how` is of stages.prepare.
    """
    for package in PACKAGES:
        packages.require(package, "the chat workloads")
    stage = stages.prepare(args, this, forms, **how)
    check_pairs(stage)
    return dataclasses.replace(stage, model=stages.start(stage))


def check_pairs(stage: Stage) -> None:
    """Raise Stop where answers of pairs that are messages cannot become tokens, or only some are messages."""
    rows = [row for row in (*stage.training, *stage.held_out) if isinstance(row.get("chosen"), list)]
    if not rows:
        return
    turns.check(stage.tokenizer, rows[0].place)
    everything = (*stage.training, *stage.held_out)
    text = next((row for row in everything if not isinstance(row.get("chosen"), list)), None)
    if text is not None:
        raise Stop(
            f"{text.place}: its answers are text, and those of {rows[0].place} are messages: use one of both"
        )


def learning(stage: Stage) -> PreTrainedModel:
    """The policy that a stage starts from, in the precision of the DeepSpeed config or, below adapters, in 4 bit."""
    from transformers import AutoModelForCausalLM

    packed = four_bit.loading(stage.args, stage.config, stage.this.device)
    return _loaded(AutoModelForCausalLM, stage.model, stage.config, **packed)


def judge(name: str, stage: Stage, seed: int | None, **more: Any) -> PreTrainedModel:
    """A model that gives a text one number. Its last layer is new, by `seed`; with None it must be trained already."""
    import torch
    from transformers import AutoModelForSequenceClassification

    if seed is None:
        if not any("SequenceClassification" in a for a in architectures.config(name).architectures or []):
            raise Stop(f"{name} is no reward model: name a folder that chat_reward --export wrote")
        check_tokens(name, stage.tokenizer)
    else:
        torch.manual_seed(seed)
    model = _loaded(AutoModelForSequenceClassification, name, stage.config, num_labels=1, **more)
    if seed is not None and len(stage.tokenizer) > architectures.vocabulary(model.config):
        model.resize_token_embeddings(len(stage.tokenizer), mean_resizing=False)  # by a token for padding
    model.config.pad_token_id = stage.tokenizer.pad_token_id
    return model


def check_tokens(name: str, ours: PreTrainedTokenizerBase) -> None:
    """Raise Stop when the tokenizer that a reward model was exported with has other tokens than the policy's."""
    theirs = tokenizer.of_folder(name)
    ids = {} if theirs is None else theirs.get_vocab()
    other = [token for token, number in ours.get_vocab().items() if ids.get(token, number) != number]
    if other:
        raise Stop(
            f"--reward {name}: its tokens are not those of the policy ({len(other)} differ, such as {other[0]!r}): "
            "train both from the same model or export"
        )


def _loaded(kind: Any, name: str, config: dict[str, Any], **more: Any) -> PreTrainedModel:
    try:
        return kind.from_pretrained(name, dtype=engines.dtype(config), **more)
    except (OSError, ValueError) as error:
        raise Stop(f"model {name!r}: {str(error).strip().splitlines()[0]}") from error


def learner(model: PreTrainedModel, stage: Stage, task: str = "CAUSAL_LM") -> Any:
    """A model that learns in policy optimization: without dropout, as ratios compare one network with itself.

    With the adapters and the activation checkpointing that the options ask for.
    """
    without_dropout(model)
    return lora.attach(model, stage, task)


def without_dropout(model: PreTrainedModel) -> None:
    """Set every dropout of a model to 0: its layers', and that of fused attention, which is a number of a module."""
    from trl.trainer.utils import disable_dropout_in_model

    disable_dropout_in_model(model)
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0

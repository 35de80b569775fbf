"""What the stages of chat training share: where a stage starts, its examples, its LoRA and its settings.

Owns the hand-over between stages: each starts from a folder that the one before exported. The stages are chat_sft
(answer as shown), chat_reward (tell the better answer), and chat_dpo, chat_rl and chat_ppo (answer so that it is
liked). The algorithms are TRL's, but for chat_ppo.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from workloads import architectures, engines, metrics, options, stages
from workloads.session import Session, Stop

if TYPE_CHECKING:
    import argparse

    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.stages import Stage

START = "start"


def add_options(made: argparse.ArgumentParser, keys: str) -> None:
    """Add the options of every stage; `keys` are those of one example."""
    options.launcher(made)
    group = made.add_argument_group("training")
    options.optimization(group)
    options.examples(group, keys)
    options.lora(group)
    options.reports(group)
    options.rehearsal(group)


def prepare(args: argparse.Namespace, this: Session, *keys: str, pad_apart: bool = False) -> Stage:
    """Read config, examples (with these keys) and tokenizer, and find the start. Raises Stop for the job's mistakes."""
    for package in ("trl", "peft"):
        metrics.require(package, "the chat workloads")
    stage = stages.prepare(args, this, *keys, pad_apart=pad_apart)
    return dataclasses.replace(stage, model=start(stage))


def start(stage: Stage) -> str:
    """Where the weights come from: --model, or a folder with random ones for an architecture that has none.

    TRL makes its frozen copies by loading the start again, so that has to be on disk.
    """
    args, by = stage.args, stage.tokenizer
    if architectures.has_weights(args.model):
        return str(args.model)
    folder = stage.this.run_dir / START

    def write() -> None:
        if not (folder / "config.json").exists():
            import torch
            from transformers import AutoModelForCausalLM

            torch.manual_seed(args.seed)
            settings = architectures.config(args.model)
            settings.eos_token_id, settings.pad_token_id = by.eos_token_id, by.pad_token_id
            AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
            by.save_pretrained(folder)

    stage.this.first(write)
    return str(folder)


def policy(name: str, config: dict[str, Any]) -> PreTrainedModel:
    """A causal language model in the precision of the DeepSpeed config."""
    from transformers import AutoModelForCausalLM

    return _loaded(AutoModelForCausalLM, name, config)


def judge(
    name: str, config: dict[str, Any], by: PreTrainedTokenizerBase, seed: int | None
) -> PreTrainedModel:
    """A model that gives a text one number. Its last layer is new, by `seed`; with None it must be trained already."""
    import torch
    from transformers import AutoModelForSequenceClassification

    if seed is None and not any(
        "SequenceClassification" in a for a in architectures.config(name).architectures or []
    ):
        raise Stop(f"{name} is no reward model: name a folder that chat_reward --export wrote")
    if seed is not None:
        torch.manual_seed(seed)
    made = _loaded(AutoModelForSequenceClassification, name, config, num_labels=1)
    if seed is not None and len(by) > made.config.vocab_size:
        made.resize_token_embeddings(len(by), mean_resizing=False)  # by a token for padding
    made.config.pad_token_id = by.pad_token_id
    return made


def _loaded(kind: Any, name: str, config: dict[str, Any], **more: Any) -> PreTrainedModel:
    try:
        return kind.from_pretrained(name, dtype=engines.dtype(config), **more)
    except (OSError, ValueError) as error:
        raise Stop(f"model {name!r}: {str(error).strip().splitlines()[0]}") from error


def lora(args: argparse.Namespace, task: str = "CAUSAL_LM") -> LoraConfig | None:
    """The LoRA that the options ask for: on every linear layer, as DeepSpeed-Chat's and QLoRA's; none for rank 0."""
    if not args.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or 2 * args.lora_rank,
        lora_dropout=args.lora_dropout,
        target_modules="all-linear",
        task_type=task,
    )

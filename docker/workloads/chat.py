"""What the stages of chat training share: where a stage starts, its examples, its LoRA and its settings.

Owns the hand-over between stages: each starts from a folder that the one before exported. The stages are chat_sft
(answer as shown), chat_reward (tell the better answer), and chat_dpo, chat_rl and chat_ppo (answer so that it is
liked). The algorithms are TRL's, but for chat_ppo.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from workloads import architectures, engines, options, packages, stages, tokenizer
from workloads.session import Session, Stop

if TYPE_CHECKING:
    import argparse

    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.stages import Stage

START = "start"
PACKAGES = ("trl", "peft")


def add_options(command: argparse.ArgumentParser, keys: str, dropout: bool = False) -> None:
    """Add the options of every stage; `keys` are those of one example, `dropout` says whether the stage has any."""
    options.launcher(command)
    group = command.add_argument_group("training")
    options.optimization(group)
    options.examples(group, keys)
    options.lora(group, dropout)
    options.reports(group)
    options.rehearsal(group)


def prepare(args: argparse.Namespace, this: Session, keys: tuple[str, ...], **how: bool) -> Stage:
    """Read config, examples (with these keys) and tokenizer, and find the start. Raises Stop for the job's mistakes.

    `how` is of stages.prepare.
    """
    for package in PACKAGES:
        packages.require(package, "the chat workloads")
    stage = stages.prepare(args, this, keys, **how)
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


def judge(name: str, stage: Stage, seed: int | None) -> PreTrainedModel:
    """A model that gives a text one number. Its last layer is new, by `seed`; with None it must be trained already."""
    import torch
    from transformers import AutoModelForSequenceClassification

    if seed is None:
        if not any("SequenceClassification" in a for a in architectures.config(name).architectures or []):
            raise Stop(f"{name} is no reward model: name a folder that chat_reward --export wrote")
        check_tokens(name, stage.tokenizer)
    else:
        torch.manual_seed(seed)
    model = _loaded(AutoModelForSequenceClassification, name, stage.config, num_labels=1)
    if seed is not None and len(stage.tokenizer) > model.config.vocab_size:
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


def lora(args: argparse.Namespace, task: str = "CAUSAL_LM") -> LoraConfig | None:
    """The LoRA that the options ask for: on every linear layer, as DeepSpeed-Chat's and QLoRA's; none for rank 0."""
    if not args.lora_rank:
        return None
    import torch
    from peft import LoraConfig

    torch.manual_seed(args.seed)  # of the adapters, which are made next
    return LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or 2 * args.lora_rank,
        lora_dropout=vars(args).get("lora_dropout", 0.0),
        target_modules="all-linear",
        task_type=task,
    )


def learner(model: PreTrainedModel, stage: Stage, task: str = "CAUSAL_LM") -> Any:
    """A model that learns in policy optimization: without dropout, as ratios compare one network with itself.

    With the adapters and the activation checkpointing that the options ask for.
    """
    from peft import get_peft_model

    without_dropout(model)
    adapters, partitioned = lora(stage.args, task), engines.stage(stage.config) == 3
    if stage.args.activation_checkpointing:
        # ZeRO-3 recomputes adapted layers in the other way only: https://github.com/huggingface/trl/issues/2514
        how = {"use_reentrant": True} if adapters and partitioned else None
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
        if adapters:
            model.enable_input_require_grads()  # else nothing before the first adapter has a gradient
    if adapters is None:
        return model
    # ZeRO-3 gathers parameters of one type: https://github.com/huggingface/trl/issues/6089
    return get_peft_model(model, adapters, autocast_adapter_dtype=not partitioned)


def without_dropout(model: PreTrainedModel) -> None:
    """Set every dropout of a model to 0: its layers', and that of fused attention, which is a number of a module."""
    from trl.trainer.utils import disable_dropout_in_model

    disable_dropout_in_model(model)
    for module in model.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0

"""Low-rank adapters (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685), by peft: how a model gets them and what
is kept of them.

Owns their options; 4-bit weights below them are four_bit.py's. Every workload that trains adapters has them from here.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from workloads import engines, four_bit, options, packages
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse

    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.session import Session
    from workloads.stages import Stage

FOLDER = "adapter"
ALL = "all-linear"  # as DeepSpeed-Chat's and QLoRA's: every linear layer but the last


def add_options(group: argparse._ArgumentGroup, *, dropout: bool) -> None:
    """Add adapters and 4-bit weights below them; with the dropout before them where a workload can do with it."""
    group.add_argument(
        "--lora-rank",
        type=options.count,
        default=0,
        metavar="R",
        help="train adapters of this rank beside linear layers instead of all weights, and write them to "
        f"{FOLDER}/ at the end; 0: all weights",
    )
    group.add_argument(
        "--lora-alpha",
        type=options.positive,
        metavar="N",
        help="their scale times the rank (default: twice the rank)",
    )
    group.add_argument(
        "--lora-targets",
        nargs="+",
        default=[ALL],
        metavar="NAME",
        help=f"the layers that get adapters, by the ends of their names: q_proj v_proj; {ALL}: every linear one but "
        "the last",
    )
    group.add_argument(
        "--merge",
        action=options.SWITCH,
        default=False,
        help="at the end also write export/: the whole model, with the adapters merged into its weights",
    )
    if dropout:
        group.add_argument(
            "--lora-dropout",
            type=options.fraction,
            default=0.0,
            metavar="X",
            help="dropout before the adapters",
        )
    four_bit.add_option(group)


def mistake(args: argparse.Namespace) -> str:
    """What is wrong with the options together; empty where nothing is."""
    if args.lora_rank:
        return ""
    asked = {
        "--lora-alpha": args.lora_alpha is not None,
        "--lora-targets": args.lora_targets != [ALL],
        "--lora-dropout": bool(vars(args).get("lora_dropout")),
        "--lora-4bit": bool(vars(args).get("lora_4bit")),
        "--merge": args.merge,
    }
    given = [option for option, is_given in asked.items() if is_given]
    return f"{', '.join(given)} without adapters: give --lora-rank, such as 16" if given else ""


def config(args: argparse.Namespace, model: PreTrainedModel, task: str = "CAUSAL_LM") -> LoraConfig | None:
    """What the options ask for, on this model; None for rank 0. Raises Stop for a target that it has not."""
    if not args.lora_rank:
        return None
    packages.require("peft", "--lora-rank")
    import torch
    from peft import LoraConfig

    check_targets(args.lora_targets, model)
    torch.manual_seed(args.seed)  # of the adapters, which are made next
    adapters = LoraConfig(
        r=args.lora_rank,
        lora_alpha=args.lora_alpha or 2 * args.lora_rank,
        lora_dropout=vars(args).get("lora_dropout", 0.0),
        target_modules=ALL if args.lora_targets == [ALL] else args.lora_targets,
        task_type=task,
    )
    if adapters.lora_dropout and _of_experts(adapters, model):
        raise Stop(
            "--lora-dropout: peft's adapters of experts cannot have it: leave it out, or name layers of attention "
            "alone in --lora-targets, such as q_proj v_proj"
        )
    return adapters


def _of_experts(adapters: LoraConfig, model: PreTrainedModel) -> bool:
    """Whether some would be beside experts, which transformers 5 has as parameters and not as layers."""
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    replaced = copy.deepcopy(adapters)
    convert_peft_config_for_transformers(replaced, model, None)
    return bool(replaced.target_parameters)


def check_targets(targets: list[str], model: PreTrainedModel) -> None:
    """Raise Stop for a target that is no layer of the model's, with the names of those that are."""
    import torch
    from transformers.pytorch_utils import Conv1D

    last = model.get_output_embeddings()  # TRL computes with its weight alone, and it may be the embedding's
    linear = (torch.nn.Linear, Conv1D)
    layers = [
        name for name, module in model.named_modules() if isinstance(module, linear) and module is not last
    ]
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    if ALL in targets and len(targets) > 1:
        raise Stop(f"--lora-targets: {ALL} stands alone, or name layers: {', '.join(ends)}")
    for target in targets:
        if target != ALL and not any(name == target or name.endswith(f".{target}") for name in layers):
            raise Stop(
                f"--lora-targets {target}: no linear layer of the model is called so; it has {', '.join(ends)}"
            )


def attach(model: PreTrainedModel, stage: Stage, task: str = "CAUSAL_LM") -> Any:
    """The model with the adapters and the activation checkpointing that the options ask for."""
    adapters, partitioned = config(stage.args, model, task), engines.stage(stage.config) == 3
    if stage.args.activation_checkpointing:
        how = recomputing(stage.args, stage.config)
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
        if adapters:
            model.enable_input_require_grads()  # else nothing before the first adapter has a gradient
    if adapters is None:
        return model
    from peft import get_peft_model

    # ZeRO-3 gathers parameters of one type: https://github.com/huggingface/trl/issues/6089
    adapted = get_peft_model(model, adapters, autocast_adapter_dtype=not partitioned)
    four_bit.settle(adapted, stage)
    return adapted


def recomputing(args: argparse.Namespace, config: dict[str, Any]) -> dict[str, bool] | None:
    """How activations are recomputed, where it is not transformers' way."""
    # ZeRO-3 recomputes adapted layers in the other way only: https://github.com/huggingface/trl/issues/2514; TRL 1.16
    # asks for it by the old name of this argument, which transformers 5.24 no longer reads by then
    return {"use_reentrant": True} if args.lora_rank and engines.stage(config) == 3 else None


def save(model: Any, tokenizer: PreTrainedTokenizerBase, session: Session) -> None:
    """Write `adapter/` of the run's folder: the adapters alone, as peft loads them, and the tokenizer.

    All ranks must call it: ZeRO-3's partitions are gathered, one at a time, into rank 0's memory.
    """
    import deepspeed

    trained = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if session.rank == 0:
                trained[name] = parameter.detach().cpu().clone()

    def write() -> None:
        folder = session.run_dir / FOLDER
        model.save_pretrained(folder, state_dict=trained, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's model card, of gaps to be filled in
        tokenizer.save_pretrained(folder)

    session.first(write)

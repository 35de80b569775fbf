"""Weights in 4 bit below adapters (QLoRA, Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), by bitsandbytes.

Owns how they are loaded and the type of what is trained on them; the adapters are lora.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads import engines, options, packages

if TYPE_CHECKING:
    import argparse

    from workloads.stages import Stage


def add_option(group: argparse._ArgumentGroup) -> None:
    """Add the 4 bit."""
    group.add_argument(
        "--lora-4bit",
        action=options.SWITCH,
        default=False,
        help="keep the weights below the adapters in 4 bit (QLoRA's NF4, by bitsandbytes)",
    )


def quantized(args: argparse.Namespace) -> bool:
    """Whether the weights below the adapters are kept in 4 bit."""
    return bool(vars(args).get("lora_4bit"))


def unconverted(args: argparse.Namespace) -> str:
    """Why a checkpoint of another number of ranks is not converted, in words; empty where it is."""
    if not quantized(args):
        return ""
    return "with --lora-4bit it was never seen that a converted checkpoint goes on right. Use as many ranks"


def packed(model: Any) -> bool:
    """Whether weights of a model are in 4 bit: its state has their constants, for which the module has no place."""
    return any(hasattr(parameter, "quant_state") for parameter in model.parameters())


def loading(args: argparse.Namespace, config: dict[str, Any], device: Any) -> dict[str, Any]:
    """How from_pretrained loads the weights below the adapters: nothing more, or in 4 bit on this rank's device."""
    if not quantized(args):
        return {}
    packages.require("bitsandbytes", "--lora-4bit")
    from transformers import BitsAndBytesConfig

    dtype = engines.dtype(config)
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,  # ZeRO-3 partitions what is stored, all of one type
    )
    # under ZeRO-3 the weights are partitioned as they are loaded
    place = {} if engines.stage(config) == 3 else {"device_map": {"": str(device)}}
    return {"quantization_config": how, **place}


def settle(model: Any, stage: Stage) -> None:
    """Have what is trained on 4-bit weights in the type that they are computed in, and the weights stay as loaded.

    peft has it in fp32 whatever it is asked for, and TRL makes bf16 of that whatever the run computes in. Where a CPU
    multiplies bf16 by itself (AVX512-BF16), bitsandbytes 0.50 rearranges a layer's weights the first time that it
    evaluates or samples, for a product that has no gradient; it goes on with that when the layer trains again, and
    ZeRO-3 gathers them as they were (https://github.com/bitsandbytes-foundation/bitsandbytes, nn/modules.py).
    """
    if not quantized(stage.args):
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(engines.dtype(stage.config))
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False

"""The model: a named architecture with random weights, or a Hugging Face folder or hub name.

Owns how a model is found, built and exported; names and their keys are data, in models.json, which the launcher's
memory planner reads too.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from workloads.session import Session

# GPT-2 was trained with 0.1 over many epochs; pretraining that sees a text once or twice does better without
DROPOUTS = ("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout", "hidden_dropout")
NAMED = Path(__file__).with_name("models.json")


def named(name: str) -> dict[str, Any] | None:
    """The Hugging Face configuration keys of an architecture of models.json; None for any other name."""
    keys: dict[str, Any] | None = json.loads(NAMED.read_text(encoding="utf-8")).get(name)
    return keys


def config(name: str) -> PretrainedConfig:
    """The configuration of a named architecture, a folder or a hub name. Raises Stop if there is none."""
    from transformers import AutoConfig

    keys = named(name)
    if keys is not None:
        tokens = {"bos_token_id": None, "eos_token_id": None}  # the family's defaults are another tokenizer's
        settings = AutoConfig.for_model(**{**tokens, **keys})
        for dropout in DROPOUTS:
            if hasattr(settings, dropout) and dropout not in keys:
                setattr(settings, dropout, 0.0)
        return settings
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)  # None would ask at a terminal
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        if "trust_remote_code" in str(error):
            raise Stop(
                f"model {name!r} brings code of its own (auto_map in its config.json), and of a family that "
                "Transformers does not know: this workload runs none; train it by a program of your own"
            ) from error
        raise Stop(f"model {name!r} is not in models.json, and no folder or hub name: {reason}") from error


def build(
    name: str,
    settings: PretrainedConfig,
    deepspeed_config: dict[str, Any],
    *,
    seed: int,
    device: torch.device,
    attention: str = "auto",
) -> PreTrainedModel:
    """The model on its device, in the precision of the DeepSpeed config; partitioned if that is ZeRO-3.

    Weights are random for a named architecture and for a folder that holds only a configuration; else they are
    loaded. Random weights depend on the seed alone, not on the ZeRO stage or the number of ranks. Raises Stop when
    the kind of attention is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.integrations import HfDeepSpeedConfig

    from workloads import engines

    for part in (settings, settings.get_text_config()):
        part.use_cache = False
    dtype = engines.dtype(deepspeed_config)
    # tells transformers to partition while it builds; `with deepspeed.zero.Init()` around it breaks its weights
    partitioned = HfDeepSpeedConfig(deepspeed_config) if engines.stage(deepspeed_config) == 3 else None
    torch.manual_seed(seed)
    on_device = contextlib.nullcontext() if partitioned else device
    how = {"dtype": dtype, **({} if attention == "auto" else {"attn_implementation": attention})}
    try:
        with on_device:
            if has_weights(name):
                model = AutoModelForCausalLM.from_pretrained(name, config=settings, **how)
            else:
                # the order in which transformers initializes under ZeRO-3, so that all stages start alike
                with no_init_weights():
                    model = AutoModelForCausalLM.from_config(settings, **how)
                if not partitioned:
                    model.initialize_weights()
                    model.tie_weights()
    except ImportError as error:  # a kind of attention whose package is missing
        raise Stop(f"--attention {attention}: {str(error).strip().splitlines()[0]}") from error
    model.partitioned = partitioned  # transformers holds it weakly, and needs it for saving too
    return model


def vocabulary(settings: PretrainedConfig) -> int:
    """How many tokens the language model has a place for: a model of more than text keeps that inside."""
    return int(settings.get_text_config().vocab_size)


def pad_vocabulary(name: str, settings: PretrainedConfig, multiple: int) -> None:
    """Make the vocabulary of a model that is to be built a multiple of this number.

    Raises Stop where the model's weights are loaded and have another size.
    """
    size = vocabulary(settings)
    padded = -(-size // multiple) * multiple
    if padded != size and has_weights(name):
        raise Stop(
            f"--pad-vocab {multiple}: {name} has weights for {size:,} tokens, which are not resized; "
            "leave it out, or start from random weights"
        )
    settings.get_text_config().vocab_size = padded


def fuse(model: PreTrainedModel) -> None:
    """Put Liger's kernels in the place of the model's layers (https://github.com/linkedin/Liger-Kernel).

    Raises Stop where the package is not installed, or knows no kernels for the family.
    """
    from workloads import packages

    packages.require_for("liger", True)
    from liger_kernel.transformers import monkey_patch

    family = model.config.model_type
    if family not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise Stop(f"--liger: there are no such kernels for {family}")
    # their loss is called by losses.py, not by the model
    monkey_patch._apply_liger_kernel_to_instance(model, fused_linear_cross_entropy=False, cross_entropy=False)


def has_weights(name: str) -> bool:
    """Whether a model's weights are loaded: those of a hub name, and of a folder with a weights file."""
    if named(name) is not None:
        return False
    folder = Path(name)
    return not folder.is_dir() or any(any(folder.glob(p)) for p in ("*.safetensors", "pytorch_model*.bin"))


def positions(settings: PretrainedConfig) -> int | None:
    """How many tokens a text may have; None for a family without a limit."""
    return getattr(settings.get_text_config(), "max_position_embeddings", None)


def contents(name: str) -> str:
    """What tells apart what a name stands for at two times: a hub's commit, or a hash over a folder's files.

    Of a weights file the size and the last MiB are read: training changes all of it.
    """
    folder = Path(name)
    if named(name) is not None or not folder.is_dir():
        return str(getattr(config(name), "_commit_hash", None))
    digest = hashlib.sha256()
    patterns = ("config.json", "generation_config.json", "*.safetensors", "pytorch_model*.bin")
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2**20))
            digest.update(f"{path.name} {size} ".encode() + file.read())
    return digest.hexdigest()


def parameters(model: PreTrainedModel) -> int:
    """How many parameters the model has, each counted once, partitioned or not."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())


def trained_parameters(model: PreTrainedModel) -> int:
    """How many of them training changes: with LoRA, few."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)


def fingerprint(model: PreTrainedModel) -> str:
    """A hash of every parameter's name and shape: a checkpoint fits a model with the same one."""
    shapes = [(key, tuple(getattr(p, "ds_shape", p.shape))) for key, p in model.named_parameters()]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, session: Session) -> None:
    """Write `export/` of the run's folder: a Hugging Face folder with safetensors, config and tokenizer.

    All ranks must call it: ZeRO-3's partitions are gathered, one layer's matrix at a time, into rank 0's memory. LoRA's
    adapters are merged into the weights they belong to.
    """
    import deepspeed

    weights = {}
    adapted = {id(one): module for module in model.modules() if (one := _adapted(module)) is not None}
    for key, parameter in model.named_parameters():
        module = adapted.get(id(parameter))
        factors = [*module.lora_A.parameters(), *module.lora_B.parameters()] if module else []
        if ".lora_" in key or ".original_module." in key:
            continue
        with deepspeed.zero.GatheredParameters([parameter, *factors], enabled=hasattr(parameter, "ds_id")):
            if session.rank == 0:
                whole = _unpacked(parameter) + (module.get_delta_weight("default") if module else 0)
                weights[plain_name(key)] = whole.to(parameter.dtype).cpu().clone()

    if session.rank == 0:
        weights |= {plain_name(key): buffer.cpu().clone() for key, buffer in _kept_buffers(model)}
    session.first(lambda: write(model, tokenizer, weights, session.run_dir / "export"))


def _adapted(module: Any) -> torch.nn.Parameter | None:
    """The parameter that a layer of peft's adapts: a linear layer's weight, or one of a layer's experts."""
    if not hasattr(module, "get_delta_weight"):
        return None
    parameter: torch.nn.Parameter = getattr(
        module.get_base_layer(), getattr(module, "parameter_name", "weight")
    )
    return parameter


def _kept_buffers(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """What belongs to a model's weights and is not trained by gradients, such as the bias of DeepSeek-V3's routers."""
    kept = model.state_dict().keys()
    return (
        (key, buffer)
        for key, buffer in model.named_buffers()
        if key in kept and ".original_module." not in key
    )


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: dict[str, torch.Tensor],
    folder: Path,
) -> None:
    """Write these weights of a model as a Hugging Face folder: safetensors, configurations and tokenizer."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    plain.config.use_cache = True
    if hasattr(plain.config, "quantization_config"):  # what is written is not
        del plain.config.quantization_config
        plain.hf_quantizer = None
    generation = getattr(plain, "generation_config", None)
    for settings in filter(None, (plain.config, generation)):
        _end_with(settings, tokenizer)
    if generation and not plain.config.is_encoder_decoder:
        _sample(generation)
    plain.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def describe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write what is needed beside weights to build the model again: its configurations and tokenizer."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = copy.deepcopy(plain.config)
    settings.architectures = [type(plain).__name__]
    settings.save_pretrained(folder)
    if generation := copy.deepcopy(getattr(plain, "generation_config", None)):
        _sample(
            generation
        )  # some models' own settings contradict each other, which transformers does not write
        generation.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unpacked(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A parameter's numbers; those of 4 bit (bitsandbytes) as the layer computes with them."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.detach()
    from bitsandbytes.functional import dequantize_4bit

    numbers: torch.Tensor = dequantize_4bit(parameter.detach(), state)
    return numbers


def end_tokens(settings: PretrainedConfig | GenerationConfig, end: int | None) -> list[int]:
    """The tokens at which generation stops: those of a model's settings, and the tokenizer's `end`."""
    known = settings.eos_token_id
    ends = {*(known if isinstance(known, list) else [known]), end}
    return sorted(token for token in ends if token is not None)


def _end_with(settings: PretrainedConfig | GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """See to it that generation stops at the end that the tokenizer has, which may not be the model family's."""
    known = settings.eos_token_id
    if tokenizer.eos_token_id not in (known if isinstance(known, list) else [known]):
        settings.eos_token_id = tokenizer.eos_token_id


def _sample(settings: GenerationConfig) -> None:
    """Have servers sample from the model as OpenAI's API does where a request says nothing else.

    Without do_sample transformers' server ignores temperature and seed, and its own top_k is 50; a temperature or
    top_k that the model brought along stays.
    """
    settings.do_sample = True
    for name, value in (("temperature", 1.0), ("top_p", 1.0), ("top_k", 0)):
        if getattr(settings, name) is None:
            setattr(settings, name, value)


def plain_name(key: str) -> str:
    """A parameter's name without what peft puts around and into it."""
    plain = re.sub(r"(\.base_layer)+\.", ".", key.removeprefix("base_model.model."))
    return plain.replace(".modules_to_save.default.", ".")

"""Models that only generate: whole on each device, split over a host's devices, or partitioned over all ranks.

Owns how DeepSpeed holds a model without an optimizer, and which ranks work on the same prompts; what is generated and
where it goes is the workload's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workloads import architectures, engines
from workloads.session import Session, Stop

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import torch
    from torch.distributed import ProcessGroup
    from transformers import PreTrainedModel

    from workloads.sampling import Chooser

ENGINES = ("transformers", "tensor-parallel", "zero")


@dataclass(frozen=True)
class Engine:
    """A model ready to generate. Ranks of a replica work on the same prompts together.

    In a tensor-parallel replica every rank computes the same tokens; with ZeRO each takes its share of the prompts,
    but all must call `model.generate` equally often, since each holds a part of every layer.
    """

    name: str
    model: PreTrainedModel
    replica: int = 0
    replicas: int = 1
    ranks: int = 1  # of this replica
    rank: int = 0  # in this replica; rank 0 writes
    shares: bool = False
    group: ProcessGroup | None = None

    def any(self, mine: bool) -> bool:
        """Whether it is true on any rank of the replica."""
        return any(self.gather(mine))

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank of the replica, in order."""
        from torch import distributed

        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        distributed.all_gather_object(values, value, group=self.group)
        return values


def start(args: argparse.Namespace, config: dict[str, Any], this: Session, end: int | None) -> Engine:
    """The engine that --engine names; its texts end at the tokenizer's `end` and those of the model.

    Raises Stop when the model or the DeepSpeed config does not fit it.
    """
    partitioned = engines.stage(config) == 3
    name = args.engine if args.engine != "auto" else "zero" if partitioned else "transformers"
    if (name == "zero") != partitioned:
        wanted = (
            "a ZeRO-3 config: deepspeed: zero3 or zero3-offload" if name == "zero" else "deepspeed: zero0"
        )
        raise Stop(f"--engine {name} and ZeRO stage {engines.stage(config)} do not go together: use {wanted}")
    dtype = engines.dtype(config)
    if name == "zero":
        model = _zero(args, config, this, end)
        return Engine(name, model, ranks=this.world_size, rank=this.rank, shares=True)
    model = this.together(lambda: load(args, dtype, end)).to(this.device)
    if name == "transformers":
        return Engine(name, model, replica=this.rank, replicas=this.world_size)
    return _tensor_parallel(model, dtype, this)


def load(args: argparse.Namespace, dtype: torch.dtype, end: int | None) -> PreTrainedModel:
    """The causal language model of --model, with random weights if --random-weights asks for them.

    Of the folder's generation settings the end tokens alone count, with `end`: how to sample is said by the options.
    Raises Stop when there is no such model, or when it has no weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    if args.random_weights:
        torch.manual_seed(args.seed)
        settings = architectures.config(args.model)
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype).eval()
    else:
        need_weights(args.model)
        try:
            model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
        except (OSError, ValueError) as error:
            raise Stop(f"model {args.model!r}: {str(error).strip().splitlines()[0]}") from error
    ends = architectures.end_tokens(model.generation_config, end)
    model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=(ends or [0])[0])
    return model


def need_weights(model: str) -> None:
    """Raise Stop for a model that has no trained weights."""
    if not architectures.has_weights(model):
        raise Stop(
            f"model {model!r} has no trained weights: name a folder that pretrain --export wrote, or a hub "
            "name, or rehearse with --random-weights"
        )


def _zero(
    args: argparse.Namespace, config: dict[str, Any], this: Session, end: int | None
) -> PreTrainedModel:
    """ZeRO-Inference: https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/docs/_posts/2022-09-10-zero-inference.md"""
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    zero = {key: value for key, value in config["zero_optimization"].items() if key != "offload_optimizer"}
    forward = {key: value for key, value in config.items() if key not in ("optimizer", "scheduler")}
    forward["zero_optimization"] = zero
    # tells transformers to partition while it loads; it is held weakly, so the model keeps it
    partitioned = HfDeepSpeedConfig(forward)
    model = this.together(lambda: load(args, engines.dtype(config), end))
    engine, *_ = deepspeed.initialize(model=model, config=forward, dist_init_required=False)
    model.partitioned = (partitioned, engine)
    return model


def _tensor_parallel(model: PreTrainedModel, dtype: torch.dtype, this: Session) -> Engine:
    """Automatic tensor parallelism: https://www.deepspeed.ai/tutorials/automatic-tensor-parallelism/"""
    import deepspeed
    from torch import distributed

    ranks = int(os.environ["LOCAL_SIZE"])
    replicas = this.world_size // ranks
    heads = model.config.num_attention_heads
    if heads % ranks or getattr(model.config, "num_key_value_heads", heads) % ranks:
        raise Stop(
            f"{heads} attention heads ({getattr(model.config, 'num_key_value_heads', heads)} of keys) cannot be split "
            f"over {ranks} ranks of a host: use fewer slots, or --engine zero"
        )
    groups = [distributed.new_group(range(n * ranks, (n + 1) * ranks)) for n in range(replicas)]
    replica, rank = divmod(this.rank, ranks)
    try:
        with _types_kept(model):
            split = deepspeed.init_inference(
                model,
                dtype=dtype,
                tensor_parallel={"tp_size": ranks, "tp_group": groups[replica]},
                replace_with_kernel_inject=False,
            )
    except AssertionError as error:
        raise Stop(f"DeepSpeed cannot split this model over devices: {error}; use --engine zero") from error
    return Engine(
        "tensor-parallel",
        split.module,
        replica=replica,
        replicas=replicas,
        ranks=ranks,
        rank=rank,
        group=groups[replica],
    )


@contextlib.contextmanager
def _types_kept(model: PreTrainedModel) -> Iterator[None]:
    """Keep DeepSpeed from casting a model, which transformers loaded in the types that its parts need.

    init_inference casts everything (deepspeed/inference/engine.py, _convert_to_dtype): also RoPE's inverse frequencies,
    whose phases are then off by radians at positions in the thousands, and what a family keeps in fp32.
    """
    casts = ("half", "bfloat16", "float")
    for cast in casts:
        setattr(model, cast, lambda: model)
    try:
        yield
    finally:
        for cast in casts:
            delattr(model, cast)


def completions(
    engine: Engine, prompts: list[list[int]], chooser: Chooser, *, new_tokens: int, device: torch.device
) -> list[list[int]]:
    """The new tokens of each prompt, up to and without an end token. All ranks of a replica that shares call it."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    with torch.no_grad():
        rows = engine.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            logits_processor=[chooser],
            synced_gpus=engine.shares,
            use_cache=True,
        )
    ends = engine.model.generation_config.eos_token_id or []
    return [_until(row[longest:].tolist(), ends) for row in rows]


def _until(tokens: list[int], ends: list[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, tokens))

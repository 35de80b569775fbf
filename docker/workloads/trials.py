"""A few steps of training, measured: memory of a rank by what holds it, bytes communicated, time.

Owns how each is measured; which trials are worth comparing is the workload's. Memory is counted from the tensors that
are alive, so that it is exact on a CPU too, where a process's resident memory says little.
"""

from __future__ import annotations

import gc
import time
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workloads import architectures, corpus, engines, training, ulysses
from workloads.samples import Samples

if TYPE_CHECKING:
    import argparse

    import torch
    from deepspeed import DeepSpeedEngine

    from workloads.session import Session

WARMUP = 2  # untimed steps: buckets are sized and parameters fetched for the first time
BUCKETS = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
BARRIERS = ("barrier", "broadcast")  # not of a step


@dataclass(frozen=True)
class Trial:
    """What a few steps took. Bytes are those of rank 0; `communicated` is operation → bytes of its messages a step."""

    name: str
    parameters: int
    states: int  # weights, gradients and optimizer alive between backward and step
    activations: int  # saved by forward for backward
    peak: int | None  # most that the accelerator had allocated
    seconds: float  # a step
    tokens_per_second: float
    loss: float
    norm: float | None
    communicated: dict[str, int] = field(default_factory=dict)

    @property
    def bytes_per_parameter(self) -> float:
        return self.states / self.parameters


def batches(this: Session, args: argparse.Namespace, vocabulary: int) -> Samples:
    """Python's reference in bytes: the same batches for every trial."""
    given = Namespace(data=["builtin"], tokenizer="bytes", data_cache=None, model=args.model)
    _, tokens = corpus.tokenized(this, given, vocabulary)
    return Samples(tokens.split()[0], args.seq_length, args.seed)


def run(
    name: str,
    config: dict[str, Any],
    args: argparse.Namespace,
    this: Session,
    samples: Samples,
    checkpointing: bool = False,
) -> Trial:
    """Train `args.max_steps` steps of the model by a DeepSpeed config and measure them; all ranks call it.

    Buckets larger than the model are cut to its size: DeepSpeed allocates them whole, and they would hide the rest.
    """
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator

    from workloads import losses

    device, settings = get_accelerator(), architectures.config(args.model)
    before = _alive(this.device)
    model = architectures.build(args.model, settings, config, args.seed, this.device)
    losses.attach(model)
    if checkpointing:
        model.activation_checkpointing_enable()
    parameters = architectures.parameters(model)
    zero = dict(config.get("zero_optimization", {}))
    for key in BUCKETS:
        zero[key] = min(zero.get(key, parameters), parameters)
    logged = {"comms_logger": {"enabled": True, "prof_all": True, "verbose": False}}
    engine = engines.start(model, {**config, **logged, "zero_optimization": zero}, args)
    engine.train()
    comms = deepspeed.comm.comm.comms_logger
    size, alone = engines.BatchSize(*(config[key] for key in engines.BATCH)), ulysses.group(1, 1, this)
    states = activations = 0
    loss, norm, began = 0.0, None, 0.0
    for step in range(args.max_steps):
        if step == WARMUP:
            device.synchronize()
            device.reset_peak_memory_stats()
            comms.comms_dict.clear()
            began = time.perf_counter()
        total = torch.zeros((), device=this.device)
        for batch in samples.share(step * size.total, size, this):
            with _Saved(engine) as saved:
                one, *_ = training.next_token_loss(engine, batch, alone, this.device)
                one = one / batch.labels.numel()
            engine.backward(one)
            norm = engines.unreported_norm(engine)
            if step == WARMUP - 1:
                states, activations = max(states, _alive(this.device) - before), max(activations, saved.bytes)
            engine.step()
            total += one.detach() / size.accumulation
        loss, _ = this.agree(total)
    device.synchronize()
    seconds, _ = this.agree((time.perf_counter() - began) / (args.max_steps - WARMUP))
    norm = engine.get_global_grad_norm() if norm is None else norm
    made = Trial(
        name,
        parameters,
        states,
        activations,
        None if this.device.type == "cpu" else int(device.max_memory_allocated()),
        seconds,
        size.total * args.seq_length / seconds,
        loss,
        None if norm is None else float(norm),
        _communicated(comms.comms_dict, args.max_steps - WARMUP),
    )
    engine.destroy()
    del engine, model
    gc.collect()
    device.empty_cache()
    return made


def _communicated(calls: dict[str, dict[int, list[Any]]], steps: int) -> dict[str, int]:
    """Operation → bytes a step, from DeepSpeed's record of operation → message size → [count, …]."""
    found: Counter[str] = Counter()
    for operation, sizes in calls.items():
        if not operation.startswith(BARRIERS):
            found[operation] += sum(int(bytes_) * int(record[0]) for bytes_, record in sizes.items()) // steps
    return {operation: bytes_ for operation, bytes_ in sorted(found.items()) if bytes_}


def _alive(device: torch.device) -> int:
    """Bytes of all tensors alive on the device, each storage once."""
    import torch

    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == device.type:
            tensors = [thing, thing.grad] if thing.is_leaf and thing.grad is not None else [thing]
            for tensor in tensors:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


class _Saved:
    """Counts what a forward pass saves for backward, but for the weights."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._weights = {p.untyped_storage().data_ptr() for p in engine.module.parameters()}
        self._sizes: dict[int, int] = {}

    def __enter__(self) -> _Saved:
        import torch

        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())

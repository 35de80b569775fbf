"""A few steps of training, measured: memory of a rank by what holds it, bytes communicated, time.

Owns the steps and what is measured of them; which trials are worth comparing is the workload's. Memory is counted by
tensor_memory.py.
"""

from __future__ import annotations

import gc
import time
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from workloads import architectures, corpus, engines, tensor_memory, training, ulysses
from workloads.samples import Samples

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    import torch
    from deepspeed import DeepSpeedEngine

    from workloads.samples import Batch
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
    given = Namespace(data=["builtin"], tokenizer="bytes", data_cache=None, data_wait=60.0, model=args.model)
    _, tokens = corpus.tokenized(this, given, vocabulary)
    return Samples(tokens.split()[0], args.seq_length, args.seed)


def run(
    name: str,
    config: dict[str, Any],
    args: argparse.Namespace,
    this: Session,
    *,
    samples: Samples,
    checkpointing: bool = False,
) -> Trial:
    """Train `args.max_steps` steps of the model by a DeepSpeed config and measure them; all ranks call it.

    Buckets larger than the model are cut to its size: DeepSpeed allocates them whole, and they would hide the rest.
    """
    from deepspeed.accelerator import get_accelerator

    device, before = get_accelerator(), tensor_memory.alive(this.device)
    engine, parameters = _start(config, args, this, checkpointing=checkpointing)
    size = engines.BatchSize(*(config[key] for key in engines.BATCH))
    memory, seconds, last = _train(engine, args, this, samples=samples, size=size)
    norm = engine.get_global_grad_norm() if last.norm is None else last.norm
    trial = Trial(
        name=name,
        parameters=parameters,
        states=memory.states - before,
        activations=memory.activations,
        peak=None if this.device.type == "cpu" else int(device.max_memory_allocated()),
        seconds=seconds,
        tokens_per_second=size.total * args.seq_length / seconds,
        loss=last.loss,
        norm=None if norm is None else float(norm),
        communicated=_communicated(args.max_steps - WARMUP),
    )
    engine.destroy()
    del engine
    gc.collect()
    device.empty_cache()
    return trial


def _start(
    config: dict[str, Any], args: argparse.Namespace, this: Session, *, checkpointing: bool
) -> tuple[DeepSpeedEngine, int]:
    """The engine, in training, that logs what it communicates; and the number of the model's parameters."""
    from workloads import losses

    model = architectures.build(
        args.model, architectures.config(args.model), config, seed=args.seed, device=this.device
    )
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
    return engine, parameters


class _Memory(NamedTuple):
    """Bytes alive between backward and step, and bytes that forward saved for backward."""

    states: int
    activations: int


class _Step(NamedTuple):
    """A step's loss over all ranks, and its gradient's norm where DeepSpeed keeps none."""

    memory: _Memory
    loss: float
    norm: torch.Tensor | None


def _train(
    engine: DeepSpeedEngine,
    args: argparse.Namespace,
    this: Session,
    *,
    samples: Samples,
    size: engines.BatchSize,
) -> tuple[_Memory, float, _Step]:
    """All steps: the memory of the last untimed one, seconds of each that is timed, and the last one."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    device, memory, began = get_accelerator(), _Memory(0, 0), 0.0
    for step in range(args.max_steps):
        if step == WARMUP:
            device.synchronize()
            device.reset_peak_memory_stats()
            deepspeed.comm.comm.comms_logger.comms_dict.clear()
            began = time.perf_counter()
        last = _step(engine, this, samples.share(step * size.total, size, this), measured=step == WARMUP - 1)
        memory = last.memory if step == WARMUP - 1 else memory
    device.synchronize()
    seconds, _ = this.agree((time.perf_counter() - began) / (args.max_steps - WARMUP))
    return memory, seconds, last


def _step(engine: DeepSpeedEngine, this: Session, batches: Iterable[Batch], *, measured: bool) -> _Step:
    import torch

    alone = ulysses.group(1, 1, this)
    states = activations = 0
    total, norm, count = torch.zeros((), device=this.device), None, 0
    for batch in batches:
        with tensor_memory.Saved(engine) as saved:
            one, *_ = training.next_token_loss(engine, batch, alone, this.device)
            one = one / batch.labels.numel()
        engine.backward(one)
        norm = engines.unreported_norm(engine)
        if measured:
            states, activations = max(states, tensor_memory.alive(this.device)), max(activations, saved.bytes)
        engine.step()
        total, count = total + one.detach(), count + 1
    loss, _ = this.agree(total / count)
    return _Step(_Memory(states, activations), loss, norm)


def _communicated(steps: int) -> dict[str, int]:
    """Operation → bytes a step, from DeepSpeed's record of operation → message size → [count, …]."""
    import deepspeed

    calls: dict[str, dict[int, list[Any]]] = deepspeed.comm.comm.comms_logger.comms_dict
    totals: Counter[str] = Counter()
    for operation, sizes in calls.items():
        if not operation.startswith(BARRIERS):
            totals[operation] += (
                sum(int(bytes_) * int(record[0]) for bytes_, record in sizes.items()) // steps
            )
    return {operation: bytes_ for operation, bytes_ in sorted(totals.items()) if bytes_}

"""How many bytes a training job needs: on one slot, on one host, on NVMe, and on disk for a checkpoint.

Owns the formulas; leaves saved tensors to activations.py, DeepSpeed's defaults to zero.py, the papers' own
formulas to zero_paper.py, and whether it fits to ladder.py.

    setup = memory.Setup(world=32, slots=8, micro=1, sequence=4096)
    memory.estimate(architecture, ds_config, setup) -> Memory
      .slot    Slot: parameters, gradients, optimizer, activations, logits, buffers, margin, total; moment
      .host    Host: optimizer, parameters, gradients, pinned, processes, loader, shm, total
      .nvme    bytes on each host's NVMe
      .checkpoint    bytes that one checkpoint takes on shared storage

All counts are bytes. A slot is at its fullest at one of four moments: when the loss is computed (every saved
tensor and the logits), at the start of the layers' backward pass, at its end (all gradients), or in the
optimizer's step. `Slot` holds the fullest one, so that its parts add up to its total; `Memory.moments` has all.

The states are those that DeepSpeed 0.19.8 was measured to hold (tests/workloads/test_memory_measured.py), from
deepspeed/runtime/zero/stage_1_and_2.py, deepspeed/runtime/zero/stage3.py and deepspeed/runtime/fp16/.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from launcher import activations, zero

if TYPE_CHECKING:
    from launcher.architecture import Architecture
    from launcher.zero import Config, Zero

GIB = 2**30
MIB = 2**20

# What a GPU holds before a tensor is made: the CUDA context with its kernels (about 0.5 GiB on recent cards), cuBLAS
# workspaces, and NCCL's channel buffers. An allowance, not a measurement.
CONTEXT = int(1.25 * GIB)
# Bytes that torch's caching allocator loses to fragmentation, as a share of what comes and goes each step.
FRAGMENTATION = 0.05
# A rank's Python with torch, CUDA libraries and DeepSpeed resident, and one data loader worker beside it.
PROCESS = int(2.5 * GIB)
WORKER = int(0.5 * GIB)
# NCCL asks for 1 GiB of /dev/shm in containers: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html
SHM = 1 * GIB


@dataclass(frozen=True)
class Setup:
    """What runs where. `world` ranks, `slots` of them on each host; one micro batch of `micro` sequences."""

    world: int
    slots: int
    micro: int
    sequence: int
    checkpointing: bool = False  # activation checkpointing of every layer
    attention: str = "sdpa"  # or "eager"
    workers: int = 2  # data loader processes of each rank
    device: str = "cuda"  # or "cpu": ranks without a GPU

    @property
    def tokens(self) -> int:
        """Tokens of one micro batch."""
        return self.micro * self.sequence


@dataclass(frozen=True)
class Slot:
    """Bytes on one slot at `moment`: "loss", "backward", "end" (of the backward pass) or "step"."""

    moment: str
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    margin: int

    @property
    def states(self) -> int:
        """Parameters, gradients and optimizer together."""
        return self.parameters + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        return self.states + self.activations + self.logits + self.buffers + self.margin


@dataclass(frozen=True)
class Host:
    """Bytes of memory on one host, all its ranks together."""

    optimizer: int  # offloaded master weights and moments
    parameters: int  # offloaded
    gradients: int  # offloaded
    pinned: int  # staging buffers, and what pinning rounds up
    processes: int
    loader: int
    shm: int

    @property
    def total(self) -> int:
        offloaded = self.optimizer + self.parameters + self.gradients + self.pinned
        return offloaded + self.processes + self.loader + self.shm


@dataclass(frozen=True)
class Memory:
    """The whole estimate. `moments` holds each moment of a slot."""

    slot: Slot
    host: Host
    nvme: int
    checkpoint: int
    moments: dict[str, Slot]


def estimate(model: Architecture, config: Config, setup: Setup) -> Memory:
    """The bytes that `model` needs under the DeepSpeed configuration `config` in `setup`."""
    return of(model, zero.read(config), setup)


def of(model: Architecture, settings: Zero, setup: Setup) -> Memory:
    """The same from settings that are already read."""
    moments = {m.moment: m for m in _moments(model, settings, setup)}
    return Memory(
        slot=max(moments.values(), key=lambda m: m.total),
        host=host(model, settings, setup),
        nvme=nvme(model, settings, setup),
        checkpoint=checkpoint(model, settings),
        moments=moments,
    )


def shard(size: int, world: int) -> int:
    """One rank's part of `size` elements; DeepSpeed pads the last part to the size of the others."""
    return -(-size // world)


def _moments(model: Architecture, settings: Zero, setup: Setup) -> list[Slot]:
    params = parameters(model, settings, setup)
    optim = optimizer(model, settings, setup)
    before = waiting(model, settings, setup)
    buffers = backward_buffers(model, settings, setup)
    grad = settings.weight_bytes * model.largest_parameter  # the one that is made now, before it is reduced
    use = activations.moments(
        model, settings.activation_bytes, setup.tokens, setup.sequence, setup.checkpointing, setup.attention
    )
    slots = [
        Slot("loss", params, before, optim, use.saved, use.loss, buffers, 0),
        Slot("backward", params, before, optim, use.first, 0, buffers + grad, 0),
        Slot("end", params, gradients(model, settings, setup), optim, use.last, 0, buffers + grad, 0),
        Slot("step", params, reduced(model, settings, setup), optim, 0, 0, step(model, settings, setup), 0),
    ]
    return [_with_margin(s, setup) for s in slots]


def _with_margin(slot: Slot, setup: Setup) -> Slot:
    moving = slot.activations + slot.logits + slot.buffers
    context = CONTEXT if setup.device == "cuda" else 0
    return replace(slot, margin=context + int(FRAGMENTATION * moving))


def parameters(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of weights that stay on a slot. Stage 3 keeps its shard, and small tensors whole."""
    width = settings.weight_bytes
    if settings.stage < 3:
        return width * model.parameters
    kept = persistent(model, settings)
    own = 0 if settings.offload_param != "none" else shard(model.parameters, setup.world)
    second = shard(model.parameters - kept, settings.hpz) if settings.hpz > 1 else 0
    return width * (own + kept + second)


def persistent(model: Architecture, settings: Zero) -> int:
    """Elements of the tensors that stage 3 keeps whole: those below the persistence threshold."""
    small = sum(
        w.size for w in (*model.embeddings, *model.norms, *model.head) if w.size < settings.persistence
    )
    return small + model.layers * sum(w.size for w in model.layer if w.size < settings.persistence)


def optimizer(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of master weights and moments that stay on a slot."""
    if settings.offload_optimizer != "none":
        away = settings.offload_ratio if settings.stage == 3 else 1.0
        return math.ceil((1 - away) * _optimizer_bytes(model, settings, setup))
    return _optimizer_bytes(model, settings, setup)


def _optimizer_bytes(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of one rank's master weights and moments, wherever they are."""
    own = shard(model.parameters, setup.world) if settings.stage else model.parameters
    return own * (_master(settings) + settings.states * settings.state_bytes)


def _master(settings: Zero) -> int:
    # fp32 training needs no second copy of the weights; ZeRO makes one nevertheless.
    return settings.master_bytes if settings.weight_bytes < 4 or settings.stage else 0


def gradients(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of gradients late in the backward pass of the last micro batch, apart from buckets.

    Stage 1 without overlap reduces after the backward pass, and with accumulation at its boundary: until then all
    gradients are there, as in the paper. With overlap and no accumulation it drops what other ranks own.
    """
    full = settings.weight_bytes * model.parameters
    if settings.stage == 0:
        return full
    if settings.stage == 1 and not (settings.overlap and settings.accumulation == 1):
        return full
    if settings.stage == 3:
        return waiting(model, settings, setup)
    if settings.offload_optimizer != "none":
        return 0
    own = settings.weight_bytes * shard(model.parameters, setup.world)
    return own + waiting(model, settings, setup)


def waiting(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of gradients that earlier micro batches left behind."""
    own = settings.gradient_bytes * shard(model.parameters, setup.world)
    if settings.stage == 3:  # one flat buffer from the start
        return 0 if settings.offload_optimizer != "none" else own
    if settings.accumulation == 1:
        return 0
    if settings.stage < 2:
        return settings.weight_bytes * model.parameters
    return 0 if settings.offload_optimizer != "none" else own


def reduced(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of gradients when the step begins."""
    if settings.stage == 0:
        return settings.weight_bytes * model.parameters
    if settings.offload_optimizer != "none":
        return 0
    return settings.gradient_bytes * shard(model.parameters, setup.world)


def backward_buffers(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of buckets and gathered weights in forward and backward passes."""
    width = settings.weight_bytes
    cast = 2 * model.parameters if settings.autocast else 0
    if settings.stage == 0:
        # The engine flattens up to 5e8 gradients for each all-reduce, after the backward pass.
        return cast
    if settings.stage < 3:
        buckets = 2 if settings.overlap else 1
        used = settings.reduce_bucket * buckets if settings.contiguous else 0
        staging = model.largest_parameter if settings.offload_optimizer != "none" else 0
        return width * (used + staging) + cast
    bucket = settings.reduce_bucket if settings.contiguous else 0
    # A full bucket is rearranged into a second buffer before it is reduce-scattered.
    rearranged = min(max(settings.reduce_bucket, model.largest_parameter), model.parameters)
    return width * (bucket + rearranged + live(model, settings)) + cast


def live(model: Architecture, settings: Zero) -> int:
    """Elements of weights gathered at once by stage 3, besides the persistent ones.

    The prefetcher runs ahead of the forward pass, and what it passes over for the backward pass is not released:
    up to max_live parameters stay. So do those whose backward use is within the reuse distance, which counts both
    passes. What is being fetched is there twice: in the buffer that receives it and copied out
    (deepspeed/runtime/zero/partitioned_param_coordinator.py; partition_parameters.py, AllGatherCoalescedHandle).
    """
    gathered = model.parameters - persistent(model, settings)
    fetched = max(min(settings.prefetch, settings.max_live), model.largest_module)
    return min(gathered, retained(settings) + model.largest_module) + min(gathered, fetched)


def retained(settings: Zero) -> int:
    """Elements of gathered weights that stage 3 lets stay until the backward pass."""
    return max(settings.max_live if settings.prefetch else 0, settings.max_reuse // 2)


def step(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes that the optimizer's step needs beside the states and the gradients."""
    if settings.stage == 0:
        if settings.weight_bytes == settings.master_bytes:
            return 0
        # fp32 gradients, listed and then flattened by the fused optimizer, one tensor at a time by torch's
        return settings.master_bytes * (1 if settings.torch_adam else 2) * model.parameters
    if settings.offload_optimizer != "none":
        return 0
    own = shard(model.parameters, setup.world)
    # torch's Adam makes the square root and its quotient anew; DeepSpeed's fused one works in place.
    work = 2 * settings.master_bytes if settings.torch_adam else 0
    if settings.stage == 3:
        bucket = settings.reduce_bucket if settings.contiguous else 0
        return min(own, settings.sub_group) * (settings.master_bytes + work) + settings.weight_bytes * bucket
    # The partition is flattened, then cast; the cast one is left when the optimizer runs.
    return own * max(
        settings.gradient_bytes + settings.master_bytes,
        settings.master_bytes - settings.gradient_bytes + work,
    )


def host(model: Architecture, settings: Zero, setup: Setup) -> Host:
    """Bytes of one host's memory."""
    ranks = min(setup.slots, setup.world)
    own = shard(model.parameters, setup.world)
    optim, params, grads, pinned = 0, 0, 0, 0
    if settings.offload_optimizer == "cpu":
        share = settings.offload_ratio if settings.stage == 3 else 1.0
        optim = int(share * _optimizer_bytes(model, settings, setup))
        grads = int(share * own * settings.master_bytes)
        grads += own * settings.gradient_bytes if settings.stage == 3 or settings.accumulation > 1 else 0
        pinned += _pinned_optimizer(model, settings, own)
    if settings.offload_optimizer == "nvme":
        tile = min(own, settings.sub_group)
        pinned += settings.optimizer_buffers * tile * settings.master_bytes
        grads = own * settings.gradient_bytes
    if settings.offload_param != "none":
        held = own if settings.offload_param == "cpu" else min(own, settings.max_in_cpu)
        params = settings.weight_bytes * held
    if settings.offload_param == "nvme":
        pinned += settings.param_buffers * settings.param_buffer_size * settings.weight_bytes
    return Host(
        optimizer=ranks * optim,
        parameters=ranks * params,
        gradients=ranks * grads,
        pinned=ranks * pinned,
        processes=ranks * PROCESS,
        loader=ranks * setup.workers * WORKER,
        shm=SHM,
    )


def _pinned_optimizer(model: Architecture, settings: Zero, own: int) -> int:
    if settings.stage == 3:
        return 0
    # The updated weights on their way to the GPU, and the largest gradient on its way from it.
    return settings.weight_bytes * (own + model.largest_parameter)


def nvme(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes that one host's ranks swap to its NVMe."""
    ranks = min(setup.slots, setup.world)
    own = shard(model.parameters, setup.world)
    size = 0
    if settings.offload_optimizer == "nvme":
        size += _optimizer_bytes(model, settings, setup) + own * settings.master_bytes
    if settings.offload_param == "nvme":
        size += settings.weight_bytes * own
    return ranks * size


def checkpoint(model: Architecture, settings: Zero) -> int:
    """Bytes of one checkpoint, all ranks' files together: weights once, master weights and moments once."""
    whole = model.parameters * (_master(settings) + settings.states * settings.state_bytes)
    weights = 0 if settings.stage == 3 else settings.weight_bytes * model.parameters
    return whole + weights

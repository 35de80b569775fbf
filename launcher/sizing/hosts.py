"""Bytes of a host: its memory, all ranks together, and what is swapped to its NVMe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.sizing import copies, others, states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.sizing.architecture import Architecture
    from launcher.sizing.setup import Setup
    from launcher.sizing.zero import Zero

GIB = 2**30

# A rank's Python with torch, CUDA libraries and DeepSpeed resident, and one data loader worker beside it.
PROCESS = int(2.5 * GIB)
CPU_PROCESS = GIB // 2  # the same without CUDA, measured
WORKER = int(0.5 * GIB)
# NCCL asks for 1 GiB of /dev/shm in containers: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html
SHM = 1 * GIB


class Host(NamedTuple):
    """Bytes of memory on one host, all its ranks together."""

    optimizer: int  # offloaded master weights and moments
    parameters: int  # offloaded
    gradients: int  # offloaded
    pinned: int  # staging buffers
    rounding: int  # what pinning rounds up to powers of two
    copies: int  # of states, from which a checkpoint is written while training goes on
    processes: int
    loader: int
    shm: int

    @property
    def total(self) -> int:
        offloaded = self.optimizer + self.parameters + self.gradients + self.pinned + self.rounding
        return offloaded + self.copies + self.processes + self.loader + self.shm


def host(model: Architecture, settings: Zero, setup: Setup) -> Host:
    """Bytes of one host's memory."""
    ranks = min(setup.slots, setup.world)
    beside = others.held(settings, setup)
    own = states.shard(model.trained, setup.world)
    share = settings.offload_ratio if settings.stage == 3 else 1.0
    optim, params, grads, staging = 0, 0, 0, 0
    if settings.offload_optimizer == "cpu":
        optim = int(share * states.optimizer_shard(model, settings, setup))
        grads = int(share * own * settings.master_bytes)
        grads += own * settings.gradient_bytes if settings.stage == 3 or settings.accumulation > 1 else 0
        # Stages 1 and 2: the updated weights on their way to the slot, the largest gradient on its way from it.
        staging += settings.weight_bytes * (own + model.largest_trained) if settings.stage < 3 else 0
    elif settings.offload_optimizer == "nvme":
        grads = own * settings.gradient_bytes
        staging += settings.optimizer_buffers * settings.master_bytes * min(own, settings.sub_group)
    part = states.shard(model.stored(settings.weight_bytes), setup.world)
    if settings.offload_param != "none":
        params = settings.weight_bytes * (
            part if settings.offload_param == "cpu" else min(part, settings.max_in_cpu)
        )
    if settings.offload_param == "nvme":
        staging += settings.param_buffers * settings.param_buffer_size * settings.weight_bytes
    cuda = setup.device == "cuda"
    tensors = _pinned(settings, own, part) if cuda else ()
    rounding = sum(number * (copies.rounded(size, setup.pinned_round) - size) for size, number in tensors)
    return Host(
        optimizer=ranks * (optim + beside.host_optimizer),
        parameters=ranks * (params + beside.host),
        gradients=ranks * grads,
        pinned=ranks * staging,
        rounding=ranks * rounding,
        copies=copies.host(saved_models(model, setup), settings, setup) if cuda and setup.copies else 0,
        processes=ranks * (PROCESS if cuda else CPU_PROCESS),
        loader=ranks * setup.workers * WORKER,
        shm=SHM,
    )


def _pinned(settings: Zero, own: int, part: int) -> Iterator[tuple[int, int]]:
    """Bytes of the large page-locked tensors of one rank, and how many there are of that size.

    `own` elements of the rank are trained, of `part` weights.

    torch rounds such memory up to a power of two (ATen/core/CachingHostAllocator.h) unless PYTORCH_ALLOC_CONF
    sets pinned_max_round_threshold_mb, so that a tensor may take almost twice its size.
    """
    if settings.offload_optimizer == "cpu" and settings.pin_optimizer:
        if settings.stage < 3:
            yield own * settings.master_bytes, 2
            yield own * settings.weight_bytes, 1
        else:
            yield own * settings.gradient_bytes, 1
            tile = min(own, settings.sub_group)
            yield tile * settings.master_bytes, own // tile if tile else 0
    if settings.offload_param == "cpu":
        yield part * settings.weight_bytes, 1


def nvme(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes that one host's ranks swap to its NVMe."""
    ranks = min(setup.slots, setup.world)
    own = states.shard(model.trained, setup.world)
    size = 0
    if settings.offload_optimizer == "nvme":
        size += states.optimizer_shard(model, settings, setup) + own * settings.master_bytes
    if settings.offload_param == "nvme":
        size += settings.weight_bytes * states.shard(model.stored(settings.weight_bytes), setup.world)
    return ranks * size


def saved_models(model: Architecture, setup: Setup) -> list[Architecture]:
    """The model, and critics, whose checkpoint lies beside the policy's (docker/workloads/ppo_training.py)."""
    return [model, *(other.model for other in setup.learning.others if other.trained)]

"""What DeepSpeed keeps on one slot for the model's states: bytes of each, stage by stage.

Owns these formulas; leaves activations to activations.py and the sum over a step's moments to memory.py.

They follow DeepSpeed 0.19.8: deepspeed/runtime/zero/stage_1_and_2.py, deepspeed/runtime/zero/stage3.py and
deepspeed/runtime/fp16/fused_optimizer.py. tests/docker/workloads/test_memory_measured.py trains with it and compares.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.sizing.architecture import Architecture
    from launcher.sizing.setup import Setup
    from launcher.sizing.zero import Zero

DOUBLE = 8
BLOCK, BLOCKS = 64, 256  # of quantization in 4 bit, and of its own constants (bitsandbytes)
# Gradients that the engine flattens for one all-reduce without ZeRO (DeepSpeedEngine.buffered_allreduce_fallback).
FLATTENED = 500_000_000


def shard(size: int, world: int) -> int:
    """One rank's part of `size` elements; DeepSpeed pads the last part to the size of the others."""
    return -(-size // world)


def parameters(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of weights that stay on a slot. Stage 3 keeps its shard, and small tensors whole."""
    width = settings.weight_bytes
    stored, constants = model.stored(width), quantization(model)
    if settings.stage < 3:
        return width * stored + constants
    kept = 0 if alone(settings, setup) else persistent(model, settings)
    own = 0 if settings.offload_param != "none" else shard(stored, setup.world)
    return width * (own + kept) + constants


def quantization(model: Architecture) -> int:
    """Bytes of the constants of weights in 4 bit, which every rank has whole.

    One of 8 bits for each block of 64 weights, one in fp32 for each 256 of those: QLoRA, arXiv 2305.14314, section 3.
    """
    blocks = -(-model.packed // BLOCK)
    return blocks + 4 * -(-blocks // BLOCKS)


def secondary(model: Architecture, settings: Zero, released: int) -> int:
    """Bytes of hpZ's second shard, which each host keeps of `released` weights for its backward pass.

    It is made when the forward pass lets go of a weight, and dropped after the step.
    """
    return (
        settings.weight_bytes * shard(max(released, 0), settings.hpz)
        if settings.stage == 3 and settings.hpz > 1
        else 0
    )


def persistent(model: Architecture, settings: Zero) -> int:
    """Elements of the tensors that stage 3 keeps whole: those below the persistence threshold."""
    return sum(
        number
        * sum(size for w in weights if (size := w.stored(settings.weight_bytes)) < settings.persistence)
        for number, weights in model.repeated
    )


def optimizer(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of master weights and moments that stay on a slot."""
    if settings.offload_optimizer != "none":
        away = settings.offload_ratio if settings.stage == 3 else 1.0
        return math.ceil((1 - away) * optimizer_shard(model, settings, setup))
    return optimizer_shard(model, settings, setup)


def optimizer_shard(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of one rank's master weights and moments, wherever they are."""
    own = shard(model.trained, setup.world) if settings.stage else model.trained
    return own * (master(settings) + settings.states * settings.state_bytes)


def master(settings: Zero) -> int:
    # fp32 training needs no second copy of the weights; ZeRO makes one nevertheless.
    return settings.master_bytes if settings.weight_bytes < 4 or settings.stage else 0


def gradients(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of gradients at the end of the backward pass of the last micro batch, apart from buckets.

    Stage 1 without overlap reduces after the backward pass, and with accumulation at its boundary: all gradients
    are there then, as in the paper, and the rank's own part is copied out of them. With overlap and no
    accumulation it drops what other ranks own as it goes, like stage 2.
    """
    full = settings.weight_bytes * model.trained
    own = settings.weight_bytes * shard(model.trained, setup.world)
    if settings.stage == 0:
        return full
    if settings.whole_gradients:
        return settings.gradient_bytes * model.trained
    if settings.stage == 3:
        return waiting(model, settings, setup)
    if settings.stage == 1 and not (settings.overlap and settings.accumulation == 1):
        return full if settings.offload_optimizer != "none" else full + own
    if settings.offload_optimizer != "none":
        return 0
    return own + waiting(model, settings, setup)


def reached(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of gradients when the backward pass has come to the first layer, apart from buckets.

    Where they are reduced afterwards, those of that layer and of the embedding are still to be made, and no rank's part
    is copied out yet. Elsewhere the part lies in one tensor from the first bucket on (copy_grads_in_partition).
    """
    if settings.whole_gradients or settings.stage > 1 or not reduces_late(model, settings):
        return gradients(model, settings, setup)
    ahead = (*model.embeddings, *model.stacks[0].weights)
    made = settings.weight_bytes * (model.trained - sum(w.size for w in ahead if w.trained))
    return max(made, waiting(model, settings, setup))


def reduces_late(model: Architecture, settings: Zero) -> bool:
    """Whether gradients are reduced after the backward pass: all at once, or as one bucket that holds them all."""
    if settings.stage == 0 or settings.whole_gradients:
        return True
    if settings.stage == 1:
        return not (settings.overlap and settings.accumulation == 1)
    return settings.stage == 2 and settings.reduce_bucket >= model.trained


def unreduced(model: Architecture, settings: Zero) -> int:
    """Bytes of gradients that are being reduced outside the buckets: the one made last, or all that the engine reduces.

    Without ZeRO, and for BF16_Optimizer, the engine flattens them once the backward pass has ended. Where one bucket
    has room for all, each is in it by the time it is reduced.
    """
    flattened = min(model.trained, FLATTENED)
    if settings.whole_gradients:
        return settings.gradient_bytes * flattened
    if settings.stage in (1, 2) and settings.contiguous and settings.reduce_bucket >= model.trained:
        return 0
    return settings.weight_bytes * (flattened if settings.stage == 0 else model.largest_trained)


def waiting(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of gradients that earlier micro batches left behind."""
    own = settings.gradient_bytes * shard(model.trained, setup.world)
    if settings.whole_gradients:  # and those in 16 bits that the last micro batch added to them
        added = settings.weight_bytes if settings.accumulation > 1 else 0
        return (settings.gradient_bytes + added) * model.trained
    if settings.stage == 3:  # one flat buffer from the start
        return 0 if settings.offload_optimizer != "none" else own
    if settings.accumulation == 1:
        return 0
    if settings.stage < 2:
        return settings.weight_bytes * model.trained
    return 0 if settings.offload_optimizer != "none" else own


def reduced(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of gradients when the step begins."""
    if settings.stage == 0:
        return settings.weight_bytes * model.trained
    if settings.whole_gradients:
        return settings.gradient_bytes * model.trained
    if settings.offload_optimizer != "none":
        return 0
    return settings.gradient_bytes * shard(model.trained, setup.world)


def forward_buffers(model: Architecture, settings: Zero, setup: Setup, gathered: int) -> int:
    """Bytes of buffers until the loss: `gathered` elements of weights, and buckets that are there already.

    Stage 3 has its bucket from the start; stage 1 keeps those of an earlier micro batch.
    """
    cast = 2 * model.parameters if settings.autocast else 0
    cast += settings.weight_bytes * model.largest_packed  # which each layer has anew as it computes
    if settings.stage == 3:
        return buckets(model, settings, setup) + settings.weight_bytes * gathered + cast
    staged = settings.stage > 0 and settings.offload_optimizer != "none"
    earlier = buckets(model, settings, setup) if settings.stage == 1 and settings.accumulation > 1 else 0
    return cast + earlier + (settings.weight_bytes * model.largest_trained if staged else 0)


def buckets(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of the buckets for gradients: stages 1 and 2 have two where reduction overlaps with the backward pass.

    In main memory only what is written to counts.
    """
    if not settings.contiguous or settings.whole_gradients:
        return 0
    elements = settings.reduce_bucket * (2 if settings.overlap and settings.stage < 3 else 1)
    return settings.weight_bytes * (min(elements, model.trained) if setup.device == "cpu" else elements)


def taken(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of buckets that are there from the first gradient on, though all are reduced after the backward pass.

    In main memory they are not written to until then (stage_1_and_2.py, setup_buckets).
    """
    if setup.device == "cpu" or settings.stage not in (1, 2):
        return 0
    earlier = settings.stage == 1 and settings.accumulation > 1  # counted since the forward pass
    return 0 if earlier else buckets(model, settings, setup)


def reduction_buffers(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of buffers that the reduction of gradients adds in the backward pass."""
    if settings.stage in (0, 3) or settings.whole_gradients:
        return 0
    there = settings.stage == 1 and settings.accumulation > 1  # counted since the forward pass
    squares = norm(model, settings, setup) if settings.offload_optimizer != "none" else 0
    return (0 if there else buckets(model, settings, setup)) + squares


def copied(model: Architecture, settings: Zero, setup: Setup) -> tuple[int, int]:
    """Bytes of the second buffer into which a full bucket goes for its reduction: at the first one, and at the last.

    Stages 1 and 2 flatten the parts of several ranks (allreduce_bucket), stage 3 rearranges. A bucket that holds all
    gradients is reduced at the end only; there this is what is needed beyond the rank's part, which is made after it.
    """
    width, whole = settings.weight_bytes, settings.reduce_bucket >= model.trained
    if settings.stage == 3:
        size = width * min(max(settings.reduce_bucket, model.largest_trained), model.trained)
        return 0 if whole else size, size
    if settings.stage == 0 or settings.whole_gradients or not (settings.contiguous and settings.multi_rank):
        return 0, 0
    size = min(settings.reduce_bucket, model.trained, FLATTENED)
    after = shard(size, setup.world) if settings.offload_optimizer == "none" else 0
    return 0 if whole else width * size, width * (size - after)


def first_reduction(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes of buckets, of a copy and of a gradient when a bucket is reduced first, in the middle of the backward pass.

    On a GPU all buckets count, and the largest gradient; in main memory only what has been written to by then.
    """
    first, _ = copied(model, settings, setup)
    width, buffers = settings.weight_bytes, reduction_buffers(model, settings, setup)
    written = setup.device == "cpu" and settings.stage in (1, 2) and settings.offload_optimizer == "none"
    if not (written and first) or model.largest_trained > settings.reduce_bucket:
        return buffers + first + width * model.largest_trained
    filled, waiting = _first_bucket(model, settings)
    return min(buffers, width * filled) + width * (min(filled, FLATTENED) + waiting)


def _first_bucket(model: Architecture, settings: Zero) -> tuple[int, int]:
    """Elements in the bucket that is reduced first, and of the gradient that finds no room in it."""
    layers = (w for s in reversed(model.stacks) for _ in range(s.number) for w in reversed(s.weights))
    filled = 0
    for weight in (*model.head, *model.norms, *layers, *model.embeddings):
        size = weight.size if weight.trained else 0
        if filled + size > settings.reduce_bucket:
            return filled, size
        filled += size
    return filled, 0


def alone(settings: Zero, setup: Setup) -> bool:
    """Whether the only rank has its weights where it computes.

    Stage 3 gathers nothing then: a weight that is fetched is its shard (partition_parameters.py, NoGatherHandle).
    """
    return setup.world == 1 and settings.offload_param == "none"


def gathered(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Elements of weights that stage 3 gathers when a module needs them: all but the persistent ones."""
    if alone(settings, setup):
        return 0
    return model.stored(settings.weight_bytes) - persistent(model, settings)


def live(model: Architecture, settings: Zero, setup: Setup, kept: int) -> int:
    """Elements of weights gathered at once by stage 3 when `kept` of them stay, besides the persistent ones."""
    return min(gathered(model, settings, setup), kept + model.largest_module)


def retained(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Elements of gathered weights that stage 3 lets stay until the backward pass.

    The prefetcher runs ahead of the forward pass, and what it passes over for the backward pass is not released:
    up to max_live parameters stay. So do those whose backward use is within the reuse distance, which counts both
    passes (deepspeed/runtime/zero/partitioned_param_coordinator.py).
    """
    if not recorded(model, settings, setup):
        return 0
    return max(settings.max_live if settings.prefetch else 0, settings.max_reuse // 2)


def ahead(settings: Zero) -> int:
    """Elements of weights that stage 3's prefetcher has gathered before they are needed."""
    return min(settings.prefetch, settings.max_live)


def recorded(model: Architecture, settings: Zero, setup: Setup) -> bool:
    """Whether DeepSpeed 0.19.8 knows, when the forward pass ends, that the backward pass needs the weights again.

    It keeps to the order of the last training pass that it recorded from beginning to end. A forward pass alone, of
    what was sampled, is such a record too, which says that nothing is used again, and what it let go of by that record
    it lets go of from then on. Adapters that are turned off for the reference are other modules, and spoil the record:
    in every step of DPO; where answers are sampled, until the training passes that follow have made a new one.
    """
    learning = setup.learning
    turned_off = bool(model.adapters) and learning.loss != "score"  # a critic is no reference
    if not learning.sampled:
        return not (turned_off and learning.forward)
    spoiled = 1 if learning.sampled == "micro" else 2
    return turned_off and settings.accumulation * learning.passes > spoiled


def norm(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes for the norm of one gradient, which DeepSpeed takes in fp64 (zero/utils.py, get_norm_dtype)."""
    if settings.stage == 3:
        return DOUBLE * shard(model.largest_trained, setup.world)
    return DOUBLE * min(model.largest_trained, shard(model.trained, setup.world))


def step(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes that the optimizer's step needs beside the states and the gradients."""
    # NCCL gathers the updated weights in place, gloo into a copy.
    copy = settings.weight_bytes * model.trained if setup.device == "cpu" and settings.stage in (1, 2) else 0
    if settings.offload_optimizer != "none":
        return copy
    fp32 = settings.master_bytes
    # torch's Adam makes the square root and its quotient anew; DeepSpeed's fused one works in place.
    work = 2 * fp32 if settings.torch_adam else 0
    if settings.stage == 0:
        if settings.weight_bytes == fp32:
            return work * model.largest_trained
        # fp32 gradients: a list that the fused optimizer flattens, or one tensor at a time
        single = fp32 * model.trained + work * model.largest_trained
        return single if settings.torch_adam else 2 * fp32 * model.trained
    own = shard(model.trained, setup.world)
    if settings.stage < 3 and settings.weight_bytes < settings.gradient_bytes:
        return max(own * work, norm(model, settings, setup), copy)  # gradients lie flat and in fp32 already
    flat, kept = settings.gradient_bytes, 0
    if settings.stage == 3:
        own = min(own, settings.sub_group)
        kept = buckets(model, settings, setup)
    # The part is flattened, then cast. In stages 1 and 2 only the cast one is left when the optimizer runs.
    after = fp32 + work - (flat if settings.stage < 3 else 0)
    cast = fp32 if flat < fp32 else 0
    return max(own * max(flat + cast, after), norm(model, settings, setup), copy - own * flat) + kept

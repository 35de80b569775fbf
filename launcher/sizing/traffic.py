"""What the ranks send each other in one optimizer step, and the shortest time such a step can take.

Owns volumes as DeepSpeed 0.19.8 moves them, and the bounds that follow from data sheets; leaves GPU figures
to gpus.py.

    traffic.collectives(architecture, zero.read(ds_config), setup) -> the collectives of one step
    traffic.volume(collectives, "fabric") -> bytes that one host sends over the fabric in a step
    traffic.bound(architecture, settings, setup, gpu=gpu, rates=rates) -> Bound: seconds, MFU, tokens a second

Measured with deepspeed.comm's logger: stages 1 and 2 all-reduce the gradients and then all-gather the weights,
3 x parameters where the paper has 2, unless use_multi_rank_bucket_allreduce is off; stage 3 gathers the weights
once, not twice, as long as they all stay (states.retained). Stages 2 and 3 reduce after every micro batch, stages 0
and 1 once a step. A ring sends (n - 1) / n of a message; an all-reduce sends it twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.sizing import states

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.sizing.architecture import Architecture
    from launcher.sizing.gpus import Gpu
    from launcher.sizing.setup import Setup
    from launcher.sizing.zero import Zero

# Bytes of host memory that one parameter's Adam update reads and writes: master weight, two moments, gradient
# read, master weight and moments written, all fp32, and the weight in 16 bits.
ADAM_BYTES = 4 * 4 + 3 * 4 + 2
# Memory bandwidth of a host's processors when nothing better is known: two sockets of eight DDR4-3200 channels.
HOST_BANDWIDTH = 400 * 10**9
# Of a host's NVMe disks together, when nothing better is known: four PCIe 4 disks.
NVME_BANDWIDTH = 20 * 10**9


class Collective(NamedTuple):
    """One kind of collective of a step. `message` is the bytes of the whole tensor, `times` how often it happens."""

    what: str  # gradients or weights, and when
    kind: str  # all_reduce, reduce, all_gather, reduce_scatter or all_to_all
    message: float
    times: int
    group: int  # ranks that take part
    scope: str  # "host": within each host; "world": all hosts

    @property
    def sent(self) -> float:
        """Bytes that one rank sends in a step, on a ring."""
        twice = 2 if self.kind == "all_reduce" else 1
        return twice * self.message * self.times * (self.group - 1) / self.group


class Bound(NamedTuple):
    """The least seconds of one step and its parts; what a figure is missing for is None."""

    compute: float
    intra: float  # collectives within hosts, and the hosts' share of those among all
    fabric: float | None  # collectives between hosts; None: the fabric's rate is not known
    optimizer: float  # the update, with its traffic to host memory or NVMe
    step: float | None = None
    mfu: float | None = (
        None  # model FLOPS over what all GPUs could do in that time; recomputation does not count
    )
    tokens_per_second: float | None = None


def collectives(model: Architecture, settings: Zero, setup: Setup) -> tuple[Collective, ...]:
    """The collectives of one optimizer step; none for a single rank."""
    if setup.world == 1:
        return ()
    return (*_states(model, settings, setup), *_attention(model, settings, setup))


def _attention(model: Architecture, settings: Zero, setup: Setup) -> Iterable[Collective]:
    """Ulysses sends queries, keys and values to the ranks that have their heads, and the output back.

    So it does with their gradients, and once more where layers are recomputed: arXiv 2309.14509, section 3.
    """
    if setup.shared == 1:
        return
    width, heads = model.head_dim + model.value_dim, model.heads + model.kv_heads
    layers = sum(stack.number for stack in model.stacks if stack.attends)
    passes = 3 if setup.checkpointing else 2
    message = float(settings.activation_bytes * setup.tokens * width * heads * layers * passes)
    scope = "world" if setup.shared > setup.slots else "host"
    times = settings.accumulation
    yield Collective("attention", "all_to_all", message, times, group=setup.shared, scope=scope)


def _states(model: Architecture, settings: Zero, setup: Setup) -> tuple[Collective, ...]:
    """The collectives of gradients and weights."""
    whole = float(settings.weight_bytes * model.trained)
    scope = "world" if setup.world > setup.slots else "host"
    if settings.stage == 0:
        return (Collective("gradients", "all_reduce", whole, 1, group=setup.world, scope=scope),)
    if settings.stage < 3:
        kind = "all_reduce" if settings.multi_rank else "reduce"
        times = settings.accumulation if settings.stage == 2 else 1
        if settings.whole_gradients:
            kind, reduced = "all_reduce", float(settings.gradient_bytes * model.trained)
        else:
            reduced = whole
        return (
            Collective("gradients", kind, reduced, times, group=setup.world, scope=scope),
            Collective("updated weights", "all_gather", whole, 1, group=setup.world, scope=scope),
        )
    return tuple(_stage3(model, settings, setup, scope))


def _stage3(model: Architecture, settings: Zero, setup: Setup, scope: str) -> Iterable[Collective]:
    times, world = settings.accumulation, setup.world
    small = states.persistent(model, settings)
    gathered = settings.weight_bytes * float(model.stored(settings.weight_bytes) - small)
    weights = gathered / 2 if settings.quantized_weights else gathered
    yield Collective("weights, forward", "all_gather", weights, times, group=world, scope=scope)
    again = 1 - kept(model, settings, setup)
    if again > 0:
        near = settings.hpz > 1
        group, where = (settings.hpz, "host") if near else (world, scope)
        yield Collective("weights, backward", "all_gather", again * weights, times, group=group, scope=where)
    whole = float(settings.weight_bytes * model.trained)
    if settings.quantized_gradients and setup.world > setup.slots:
        # Two hops in 4 bits: within the host, then each slot its part among the hosts.
        hosts = world // setup.slots
        yield Collective(
            "gradients, within hosts", "all_to_all", whole / 4, times, group=setup.slots, scope="host"
        )
        yield Collective(
            "gradients, among hosts",
            "all_to_all",
            whole / 4 / setup.slots,
            times,
            group=hosts,
            scope="fabric",
        )
    else:
        yield Collective("gradients", "reduce_scatter", whole, times, group=world, scope=scope)
    if small:  # those that stay whole are gathered anew after the update (stage3.py, _post_step)
        message = float(settings.weight_bytes * small)
        yield Collective("updated small weights", "all_gather", message, 1, group=world, scope=scope)


def kept(model: Architecture, settings: Zero, setup: Setup) -> float:
    """The share of stage 3's gathered weights that stay from the forward to the backward pass."""
    gathered = model.stored(settings.weight_bytes) - states.persistent(model, settings)
    return min(1.0, states.retained(model, settings, setup) / gathered) if gathered else 1.0


def volume(moved: Iterable[Collective], link: str, slots: int = 1) -> float:
    """Bytes sent in one step: "slot" by one rank in all, "fabric" by one host to others.

    A ring over all hosts crosses each host's border once, so a host sends what one of its ranks sends.
    """
    if link == "slot":
        return sum(c.sent for c in moved)
    return sum(c.sent * (slots if c.scope == "fabric" else 1) for c in moved if c.scope != "host")


def by_paper(model: Architecture, settings: Zero, setup: Setup) -> float:
    """Bytes that one rank sends in a step by the ZeRO paper (arXiv 1910.02054, section 7), on a ring.

    It has one micro batch a step: 2 x parameters for stages 0, 1 and 2, and 3 x for stage 3. With more of them, stages
    2 and 3 reduce after each, and stage 3 gathers for each.
    """
    micro = settings.accumulation
    times = {0: 2, 1: 2, 2: micro + 1, 3: 3 * micro}[settings.stage]
    return times * settings.weight_bytes * float(model.trained) * (setup.world - 1) / setup.world


def flops_per_token(model: Architecture, sequence: int) -> float:
    """Floating point operations that training on one token takes: 6 for each weight in a product, and attention.

    PaLM, arXiv 2204.02311, appendix B: 6 N + 12 x layers x heads x head width x sequence. The embedding's look-up
    is no product; a tied head is one.
    """
    weights, attention = _products(model, sequence)
    still = max(0, weights - model.trained) if model.adapters else 0  # without a gradient of their own
    return 6.0 * weights - 2.0 * still + 3.0 * attention


def _forward(model: Architecture, sequence: int) -> float:
    """Those of the forward pass alone."""
    weights, attention = _products(model, sequence)
    return 2.0 * weights + attention


def _products(model: Architecture, sequence: int) -> tuple[int, float]:
    """Weights in a product with one token, and operations of attention in its forward pass."""
    lookup = sum(w.size for w in model.embeddings)
    head = 0 if model.head else model.vocab * model.hidden
    weights = model.active_parameters - lookup + head - model.groups.get("vision", 0)  # the text's alone
    # each layer's queries meet as many keys as its window has; MLA's values are narrower than its keys
    looked = sum(s.number * min(sequence, s.window or sequence) for s in model.stacks if s.attends)
    if model.halves:  # the decoder's queries meet the encoder's keys too
        looked += model.stacks[1].number * sequence
    return weights, 2.0 * looked * model.heads * (model.head_dim + model.value_dim)


class Rates(NamedTuple):
    """Bytes a second that a data sheet does not say."""

    fabric: float | None  # that one host sends to others, one direction; None: not known
    host: float = HOST_BANDWIDTH  # of a host's memory
    nvme: float = NVME_BANDWIDTH  # of a host's disks together


def bound(model: Architecture, settings: Zero, setup: Setup, gpu: Gpu, rates: Rates) -> Bound:
    """The shortest step on `gpu`.

    A bound, not a forecast: every product at the data sheet's rate, every collective at its link's, gradients and
    gathered weights hidden behind computation where DeepSpeed overlaps them. Real steps take longer; their order
    is what it is for.
    """
    tokens = setup.tokens * settings.accumulation
    trained = flops_per_token(model, setup.sequence)
    still = setup.learning.forward * _forward(model, setup.sequence)
    again = 4 / 3 if setup.checkpointing else 1.0
    compute = tokens * (trained * again + still) / gpu.flops
    moved = collectives(model, settings, setup)
    intra = volume(moved, "slot") / gpu.link
    between = volume(moved, "fabric", setup.slots)
    update = _update(model, settings, setup, gpu=gpu, rates=rates)
    if between and rates.fabric is None:
        return Bound(compute=compute, intra=intra, fabric=None, optimizer=update)
    outside = between / rates.fabric if rates.fabric else 0.0
    late = [c for c in moved if c.what.startswith("updated")]
    after = max(volume(late, "slot") / gpu.link, volume(late, "fabric", setup.slots) / (rates.fabric or 1.0))
    during = max(intra, outside) - after
    step = (max(compute, during) if settings.overlap else compute + during) + after + update
    total = tokens * setup.world
    return Bound(
        compute=compute,
        intra=intra,
        fabric=outside,
        optimizer=update,
        step=step,
        mfu=total * (trained + still) / (step * gpu.flops * setup.world),
        tokens_per_second=total / step,
    )


def _update(model: Architecture, settings: Zero, setup: Setup, gpu: Gpu, rates: Rates) -> float:
    """Seconds for what the optimizer and the offload of one step move."""
    ranks = min(setup.slots, setup.world)
    own = states.shard(model.trained, setup.world if settings.stage else 1)
    if settings.offload_optimizer == "none":
        seconds = own * ADAM_BYTES / gpu.bandwidth
    else:
        # Gradients come down and weights go up, then the processors of the host update all its ranks' parts.
        seconds = 2 * own * settings.weight_bytes / gpu.host + ranks * own * ADAM_BYTES / rates.host
    if settings.offload_optimizer == "nvme":
        seconds += ranks * own * (16 + 12) / rates.nvme
    if settings.offload_param != "none":
        held = states.shard(model.stored(settings.weight_bytes), setup.world)
        passes = 2 * settings.accumulation * held * settings.weight_bytes
        slow = ranks * passes / rates.nvme if settings.offload_param == "nvme" else 0.0
        seconds += max(passes / gpu.host, slow)
    return seconds

"""How many bytes a training job needs: on one slot, on one host, on NVMe, and on disk for a checkpoint.

Owns the formulas; leaves saved tensors to activations.py, DeepSpeed's defaults to zero.py, and whether it fits to
ladder.py.

    setup = Setup(world=32, slots=8, micro=1, sequence=4096)
    memory.estimate(architecture, zero.read(ds_config), setup) -> Memory
      .slot    Slot: parameters, gradients, optimizer, activations, logits, buffers, margin, total; moment
      .host    Host: optimizer, parameters, gradients, pinned, rounding, copies, processes, loader, shm, total
      .nvme    bytes on each host's NVMe
      .checkpoint    bytes that one checkpoint takes on shared storage

All counts are bytes. A slot is at its fullest at one of these moments: while a policy samples answers, when the forward
pass ends (every saved tensor, and in stage 3 the last weights on their way), when the loss is computed (every saved
tensor and the logits), at the start of the layers' backward pass, at its end (in the first layer, then with all
gradients), or in the optimizer's step.
`Slot` holds the fullest one, so that its parts add up to its total; `Memory.moments` has all.

The states are those that DeepSpeed 0.19.8 was measured to hold (tests/docker/workloads/test_memory_measured.py), from
deepspeed/runtime/zero/stage_1_and_2.py, deepspeed/runtime/zero/stage3.py and deepspeed/runtime/fp16/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.sizing import activations, cache, copies, gathering, halves, hosts, others, states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.sizing.architecture import Architecture
    from launcher.sizing.setup import Setup
    from launcher.sizing.zero import Zero

GIB = 2**30
MIB = 2**20
FP32 = 4

# What a GPU holds before a tensor is made: the CUDA context with its kernels (about 0.5 GiB on recent cards), cuBLAS
# workspaces, and NCCL's channel buffers. An allowance, not a measurement.
CONTEXT = int(1.25 * GIB)
# Bytes that torch's caching allocator loses to fragmentation, as a share of what comes and goes each step.
FRAGMENTATION = 0.05
# The C library's, which a rank without a GPU has instead, holds on to freed tensors: it uses them again, but for this
# share. Tensors above HELD bytes go back to the kernel as a rule. Both fitted to
# tests/docker/workloads/memory_resident.py.
CPU_FRAGMENTATION = 0.1
HELD = 64 * MIB


class Slot(NamedTuple):
    """Bytes on one slot at `moment`: sampling, forward, loss, backward, end (of the backward pass) or step."""

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


class Memory(NamedTuple):
    """The whole estimate. `moments` holds each moment of a slot."""

    slot: Slot
    host: hosts.Host
    nvme: int
    checkpoint: int
    moments: dict[str, Slot]


def estimate(model: Architecture, settings: Zero, setup: Setup) -> Memory:
    """The bytes that `model` needs under the DeepSpeed configuration that zero.read made `settings` of."""
    slots = [*_moments(model, settings, setup), *_critics(model, settings, setup)]
    if setup.device == "cpu":
        slots = _held(slots, model, settings, setup)
        copied = copies.rank(hosts.saved_models(model, setup), settings, setup) if setup.copies else 0
        slots = [slot._replace(buffers=slot.buffers + copied) for slot in slots]
    # of two models that learn in turn the one that uses more: what stays resident is the same in both
    moments = {slot.moment: slot for slot in sorted(slots, key=lambda slot: slot.total - slot.margin)}
    return Memory(
        slot=max(slots, key=lambda slot: slot.total),
        host=hosts.host(model, settings, setup),
        nvme=hosts.nvme(model, settings, setup),
        checkpoint=sum(checkpoint(one, settings) for one in hosts.saved_models(model, setup)),
        moments=moments,
    )


def _activations(model: Architecture, settings: Zero, setup: Setup) -> activations.Activations:
    if model.halves:  # under torch's autocast as if nothing were cast
        return halves.moments(model, setup, FP32 if settings.autocast else settings.activation_bytes)
    return activations.moments(model, setup, settings.activation_bytes, mixed=settings.autocast)


class _Buffers(NamedTuple):
    """Bytes beside states and saved tensors."""

    arriving: int  # in the forward pass, while the most weights arrive together
    forward: int  # when it ends
    made: int  # the largest gradient, when it has been made
    bucket: int  # when the first bucket is reduced, more than in the forward pass
    done: float  # share of the layers whose backward pass is over by then
    before: bool  # whether the head's gradient fills it, before any layer
    late: int  # at its end, with the first layer's tensors
    reducing: int  # when what is reduced last is


def _buffers(model: Architecture, settings: Zero, setup: Setup) -> _Buffers:
    kept, fetched = states.retained(model, settings, setup), gathering.fetched(model, settings, setup)
    streamed = states.recorded(model, settings, setup) and kept < states.gathered(model, settings, setup)
    there = states.live(model, settings, setup, max(kept, states.ahead(settings)))
    least = states.live(model, settings, setup, 0)
    rest = max(least, states.live(model, settings, setup, kept) - gathering.dropped(model, settings))

    def holding(weights: int) -> int:
        return states.forward_buffers(model, settings, setup, weights)

    late = holding(least + fetched)
    reducing = states.reduction_buffers(model, settings, setup)
    _, last = states.copied(model, settings, setup)
    made = settings.weight_bytes * model.largest_trained
    inner = settings.weight_bytes * max(
        (w.size for s in model.stacks for w in s.weights if w.trained), default=0
    )
    flat = reducing + last + states.unreduced(model, settings)
    # what is reduced once the backward pass has ended finds none of its tensors, but its buckets are there before
    after = states.reduces_late(model, settings)
    taken = states.taken(model, settings, setup)
    before = sum(weight.size for weight in model.head) > settings.reduce_bucket
    # a gradient that no bucket holds is reduced by itself, by gloo in a copy
    copy = made if before and settings.stage == 3 and setup.device == "cpu" and setup.world > 1 else 0
    return _Buffers(
        arriving=holding(there + fetched),
        forward=holding(rest + (fetched if streamed else 0)),
        made=made,
        bucket=copy + (made + taken if after else states.first_reduction(model, settings, setup)),
        done=0.0 if after else _done(model, settings),
        before=before,
        late=late + inner + (taken if after else reducing + last),
        reducing=late + flat,
    )


def _done(model: Architecture, settings: Zero) -> float:
    """The share of the layers, last one first, whose gradients fill the first bucket with those of the head."""
    layers = sum(stack.number * stack.parameters for stack in model.stacks)
    largest = max(stack.parameters for stack in model.stacks)
    filled = settings.reduce_bucket - sum(weight.size for weight in model.head) - largest
    return min(1.0, max(0.0, filled / layers)) if layers and not model.adapters else 0.0


def _moments(model: Architecture, settings: Zero, setup: Setup) -> list[Slot]:
    use, need = _activations(model, settings, setup), _buffers(model, settings, setup)
    gathered = states.gathered(model, settings, setup)
    whole = states.parameters(model, settings, setup)
    early = whole + states.secondary(model, settings, gathered - states.retained(model, settings, setup))
    late = whole + states.secondary(model, settings, gathered)
    before = states.waiting(model, settings, setup)
    optim = states.optimizer(model, settings, setup)
    beside = others.held(settings, setup)
    # a reference that is asked about the same texts, between the forward and the backward pass
    asked = 0 if setup.learning.sampled else beside.gathered

    def slot(moment: str, parameters: int, gradients: int, buffers: int, saved: int, logits: int = 0) -> Slot:
        context = CONTEXT if setup.device == "cuda" else 0
        buffers += beside.buffers
        return Slot(
            moment=moment,
            parameters=parameters + beside.parameters,
            gradients=gradients + beside.gradients,
            optimizer=optim + beside.optimizer,
            activations=saved,
            logits=logits,
            buffers=buffers,
            margin=context + int(FRAGMENTATION * (saved + logits + buffers)),
        )

    filled = use.first - int(need.done * (use.first - use.last))
    if need.before:
        filled = max(filled, use.norm)
    end, left = states.gradients(model, settings, setup), states.reduced(model, settings, setup)
    reached = states.reached(model, settings, setup)
    bucketed = before if states.reduces_late(model, settings) else reached
    sampling = [slot("sampling", early, before, buffers=_sampling(model, settings, setup), saved=0)]
    return [
        *(sampling if setup.learning.sampled else []),
        slot("forward", early, before, buffers=need.arriving + asked, saved=use.saved),
        slot("forward", early, before, buffers=need.forward + asked, saved=use.saved),
        slot("loss", early, before, buffers=need.forward + asked, saved=use.saved, logits=use.loss),
        slot("backward", early, before, buffers=need.forward + need.made, saved=max(use.first, use.norm)),
        slot("backward", early, bucketed, buffers=need.forward + need.bucket, saved=filled),
        slot("end", late, reached, buffers=need.late, saved=use.last),
        slot("end", late, end, buffers=need.reducing, saved=0),
        slot("step", late, left, buffers=states.step(model, settings, setup), saved=0),
    ]


def _critics(model: Architecture, settings: Zero, setup: Setup) -> Iterator[Slot]:
    """The moments in which a second model learns, and the first is beside it."""
    for other in setup.learning.others:
        if other.trained:
            rest = (*(one for one in setup.learning.others if one is not other), other._replace(model=model))
            learning = setup.learning._replace(loss="score", others=rest)
            own = _moments(other.model, settings, setup._replace(learning=learning))
            yield from (slot for slot in own if slot.moment != "sampling")


def _sampling(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Bytes beside the states while answers are sampled: weights gathered, keys and values, the logits of a token."""
    width, learning = settings.weight_bytes, setup.learning
    rows = setup.micro * (settings.accumulation if learning.sampled == "step" else 1)
    weights = 0
    if settings.stage == 3:
        all_of_them = states.gathered(model, settings, setup)
        weights = (
            all_of_them if learning.gathered else states.live(model, settings, setup, states.ahead(settings))
        )
    kept = cache.text(model, width, setup.sequence) + cache.copy(model, width, setup.sequence)
    prompt = setup.sequence - min(learning.answer, setup.sequence)
    prefill = prompt * activations.working(model, width)
    chosen = model.vocab * (width + 3 * FP32)  # of one token; the prompt's others have none
    buckets = states.buckets(model, settings, setup) if settings.stage == 3 else 0
    return buckets + width * weights + rows * (kept + max(prefill, chosen))


def _held(slots: list[Slot], model: Architecture, settings: Zero, setup: Setup) -> list[Slot]:
    """The slots of a rank without a GPU: what was freed since the fullest moment stays resident, as margin."""
    kept = max(states.retained(model, settings, setup), states.ahead(settings))
    gathered = states.live(model, settings, setup, kept) if settings.stage == 3 else 0
    gathered += gathering.fetched(model, settings, setup) if settings.stage == 3 else 0

    product = activations.product(model, setup, settings.weight_bytes)

    def reusable(slot: Slot) -> int:
        chunks = setup.learning.loss == "chunks"
        rows = activations.loss_rows(model, setup.tokens) if chunks else setup.tokens
        logits = slot.logits if FP32 * rows * model.vocab <= HELD else 0
        if logits and product > HELD:
            logits -= product
        weights = settings.weight_bytes * gathered if slot.moment in ("forward", "loss", "backward") else 0
        return slot.activations + logits + weights

    most = max(map(reusable, slots))
    resident = []
    for slot in slots:
        held = most - reusable(slot)
        passing = slot.total - slot.margin - slot.parameters - slot.optimizer + held
        resident.append(slot._replace(margin=held + int(CPU_FRAGMENTATION * passing)))
    return resident


def checkpoint(model: Architecture, settings: Zero) -> int:
    """Bytes of one model's checkpoint, all ranks' files together: weights once, master weights and moments once.

    Weights that stand still are left out.
    """
    whole = model.trained * (states.master(settings) + settings.states * settings.state_bytes)
    weights = 0 if settings.stage == 3 else settings.weight_bytes * model.trained
    return whole + weights

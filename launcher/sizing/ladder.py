"""The ladder of DeepSpeed configurations: which rungs fit, which of them is the fastest, and what would fit.

Owns the order of rungs and the comparison with a machine's memory; leaves bytes to memory.py and seconds to
traffic.py. Pure: presets come in as mappings, the machine as numbers.

    machine = ladder.Machine(hosts=4, slots=8, slot_memory=..., host_memory=..., nvme=0, gpu=..., fabric=...)
    climb = ladder.climb(architecture, machine, wish, presets)
      .chosen   Try or None: the first rung that fits
      .tried    every rung up to it, fastest first, each with its memory and why it does not fit
      .largest_micro    sequences: the largest micro batch that fits on the chosen rung
    ladder.try_rung(architecture, machine, wish, ladder.Rung("zero2", False), presets)   one rung alone
    ladder.changes(architecture, machine, wish, presets)    the smallest changes that would make it fit
    ladder.min_hosts(...)    the fewest hosts

Rungs are sorted by the bound on their step time (traffic.bound) when the machine's GPU and fabric have figures;
those that come out alike, and all of them without figures, keep the order of RUNGS. A bound flatters stage 3, so
it counts as slower than stage 1 by STAGE_3 at least; ZeRO++ competes with it where the fabric is slow.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.sizing import memory, traffic, zero
from launcher.sizing import setup as sizing_setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.sizing.architecture import Architecture
    from launcher.sizing.gpus import Gpu
    from launcher.sizing.memory import Memory
    from launcher.sizing.setup import Setup

Presets = Mapping[str, Mapping[str, Any]]


class Rung(NamedTuple):
    """A preset of templates/deepspeed/, with or without activation checkpointing."""

    preset: str
    checkpointing: bool

    @property
    def name(self) -> str:
        return self.preset + (" with activation checkpointing" if self.checkpointing else "")


# Stages in the order of what they cost (DeepSpeed's and Hugging Face's advice: ZeRO-2 before ZeRO-3, offload after,
# https://huggingface.co/docs/transformers/deepspeed), each first without recomputation, which costs a third more
# arithmetic. Stages 1 and 2 send the same, so both come before recomputation.
RUNGS = (
    Rung("zero1", False),
    Rung("zero2", False),
    Rung("zero1", True),
    Rung("zero2", True),
    Rung("zero2-offload", False),
    Rung("zero2-offload", True),
    Rung("zero3", False),
    Rung("zeropp", False),
    Rung("zero3", True),
    Rung("zeropp", True),
    Rung("zero3-offload-optimizer", False),
    Rung("zero3-offload-optimizer", True),
    Rung("zero3-offload", False),
    Rung("zero3-offload", True),
    Rung("zero3-nvme", True),
)


# Stage 3 gathers module by module from Python hooks, which a bound by bytes does not see: with everything in one
# host's memory it trained at 0.86 of stage 1's speed (GPT-2, two CPU ranks, DeepSpeed 0.19.8).
STAGE_3 = 1 / 0.86


class Machine(NamedTuple):
    """Where the job runs. Sizes are bytes, `fabric` is bytes a second that one host sends; None: not known."""

    hosts: int
    slots: int
    slot_memory: int | None
    host_memory: int | None = None
    nvme: int = 0  # of one host; 0: none
    gpu: Gpu | None = None
    fabric: float | None = None

    @property
    def world(self) -> int:
        return self.hosts * self.slots


class Wish(NamedTuple):
    """What the job asks for. `checkpointing` None: the ladder may choose. `base` goes under every preset.

    `train`: samples of a step, which must divide among all ranks; None: as many as `base` accumulates.
    """

    micro: int
    sequence: int
    base: Mapping[str, Any]  # DeepSpeed's keys: precision, gradient_accumulation_steps, optimizer
    checkpointing: bool | None = None
    attention: str = "sdpa"
    workers: int = 2
    train: int | None = None
    pinned_round: int | None = None  # as in memory.Setup

    def divides(self, world: int) -> bool:
        """Whether a step's samples divide among `world` ranks in whole micro batches."""
        return self.train is None or self.train % (self.micro * world) == 0

    def on(self, world: int) -> Wish:
        """The same with the accumulation that its step has on `world` ranks."""
        if self.train is None:
            return self
        passes = max(1, self.train // (self.micro * world))
        return self._replace(base={**self.base, "gradient_accumulation_steps": passes})


class Try(NamedTuple):
    """One rung, weighed. `reasons` is empty when it fits; `seconds` is the bound on its step, None if not known."""

    rung: Rung
    memory: Memory
    reasons: tuple[str, ...]
    seconds: float | None

    @property
    def fits(self) -> bool:
        return not self.reasons


class Climb(NamedTuple):
    """The rungs tried, fastest first, the one chosen (the last of them, if any fits), and its largest micro batch."""

    tried: tuple[Try, ...]
    chosen: Try | None
    largest_micro: int


def climb(model: Architecture, machine: Machine, wish: Wish, presets: Presets) -> Climb:
    """Try rungs, fastest first, until one fits."""
    tried = []
    for step in ordered(model, machine, wish, presets):
        tried.append(step)
        if step.fits:
            return Climb(tuple(tried), step, largest_micro(model, machine, wish, presets, step.rung))
    return Climb(tuple(tried), None, 0)


def ordered(model: Architecture, machine: Machine, wish: Wish, presets: Presets) -> list[Try]:
    """Every rung that this machine can have, weighed, fastest first."""
    tries = [try_rung(model, machine, wish, rung, presets) for rung in rungs(machine, wish, presets)]
    known = {t.rung: t.seconds for t in tries if t.seconds is not None}
    return sorted(tries, key=lambda t: _cost(t.rung, known)) if len(known) == len(tries) else tries


def _cost(rung: Rung, seconds: Mapping[Rung, float]) -> float:
    """Seconds to sort by. Stage 3 is not taken for faster than stage 1 where that can be had."""
    cost, first = seconds[rung], seconds.get(Rung("zero1", rung.checkpointing), 0.0)
    if rung.preset.startswith("zero3"):
        cost = STAGE_3 * max(cost, first)
    if rung.preset == "zeropp":
        plain = seconds.get(Rung("zero3", rung.checkpointing), cost)
        cost = max(cost / plain * STAGE_3 * max(plain, first), first)
    # Rounded, so that the last digits do not decide between rungs that move the same bytes.
    return float(f"{cost:.2e}")


def rungs(machine: Machine, wish: Wish, presets: Presets) -> Iterator[Rung]:
    """The rungs of RUNGS that make sense: those whose presets are given and that the machine and the job allow."""
    for rung in RUNGS:
        if rung.preset not in presets or wish.checkpointing not in (None, rung.checkpointing):
            continue
        # ZeRO++ keeps its second copy within a host and needs CUDA for its quantizers.
        if rung.preset == "zeropp" and (machine.hosts == 1 or machine.slots == 1 or machine.gpu is None):
            continue
        if rung.preset == "zero3-nvme" and not machine.nvme:
            continue
        yield rung


def try_rung(model: Architecture, machine: Machine, wish: Wish, rung: Rung, presets: Presets) -> Try:
    """One rung's memory, why it does not fit, and the bound on its step."""
    settings = zero.read(effective(wish.base, presets[rung.preset], machine.slots))
    there = setup(machine, wish, rung)
    needed = memory.of(model, settings, there)
    seconds = None
    if machine.gpu is not None:
        seconds = traffic.bound(model, settings, there, machine.gpu, machine.fabric).step
    return Try(rung, needed, tuple(misfits(needed, machine)), seconds)


def effective(base: Mapping[str, Any], preset: Mapping[str, Any], slots: int) -> dict[str, Any]:
    """A preset over the job's own keys, with ZeRO++'s "slots" filled in."""
    config = {**base, **preset}
    section = config.get("zero_optimization")
    if isinstance(section, Mapping) and section.get("zero_hpz_partition_size") == "slots":
        config["zero_optimization"] = {**section, "zero_hpz_partition_size": slots}
    return config


def misfits(needed: Memory, machine: Machine) -> Iterator[str]:
    """Why `needed` does not fit `machine`; what is not known of the machine is not compared."""
    limits = (
        ("a slot", needed.slot.total, machine.slot_memory),
        ("a host", needed.host.total, machine.host_memory),
        ("a host's NVMe", needed.nvme, machine.nvme),
    )
    for where, wanted, there in limits:
        if there is not None and wanted > there:
            yield f"{where} needs {_gigabytes(wanted)} of {_gigabytes(there)}"


def largest_micro(model: Architecture, machine: Machine, wish: Wish, presets: Presets, rung: Rung) -> int:
    """The largest micro batch that fits on `rung`; 0 when not even one sequence does."""

    def fits(micro: int) -> bool:
        return try_rung(model, machine, wish._replace(micro=micro), rung, presets).fits

    if machine.slot_memory is None or not fits(1):
        return 0
    return last(fits, 1)


def last(fits: Callable[[int], bool], least: int) -> int:
    """The largest number that fits, given that `least` does and that what is larger fits less."""
    below = least
    while fits(2 * below):
        below *= 2
    above = 2 * below
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below


def min_hosts(
    model: Architecture,
    machine: Machine,
    wish: Wish,
    presets: Presets,
    most: int = 4096,
    only: Rung | None = None,
) -> int | None:
    """The fewest hosts on which a rung (or `only` that one) fits; None when even `most` are too few.

    They are such that the step's samples divide among their ranks, where the wish says how many there are.
    """

    def fits(hosts: int) -> bool:
        there = machine._replace(hosts=hosts)
        asked = wish.on(there.world)
        if only is not None:
            return try_rung(model, there, asked, only, presets).fits
        return any(t.fits for t in ordered(model, there, asked, presets))

    if wish.train is not None:
        last = min(most, wish.train // (wish.micro * machine.slots))
        whole = (hosts for hosts in range(1, last + 1) if wish.divides(hosts * machine.slots))
        return next(filter(fits, whole), None)
    below, above = 0, 1
    while not fits(above):
        below, above = above, 2 * above
        if below >= most:
            return None
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if fits(middle) else (middle, above)
    return above if above <= most else None


class Change(NamedTuple):
    """One change that makes the job fit: `what` is "micro", "hosts", "preset", "checkpointing" or "pinning"."""

    what: str
    value: int | str | bool
    rung: Rung


def changes(
    model: Architecture, machine: Machine, wish: Wish, presets: Presets, rung: Rung | None = None
) -> list[Change]:
    """The smallest single changes that make a job fit which does not, least intrusive first.

    `rung` is the one that the job insists on; without it the ladder is free and only the micro batch and the
    number of hosts can change.
    """
    found = list(_exact_pinning(model, machine, wish, presets, rung))
    if rung is not None:
        other = rung._replace(checkpointing=True)
        if not rung.checkpointing and try_rung(model, machine, wish, other, presets).fits:
            found.append(Change("checkpointing", True, other))
        free = climb(model, machine, wish, presets).chosen
        if free is not None and free.rung.preset != rung.preset:
            found.append(Change("preset", free.rung.preset, free.rung))
    found += _smaller_micro(model, machine, wish, presets, rung)
    hosts = min_hosts(model, machine, wish, presets, only=rung)
    if hosts is not None and hosts > machine.hosts:
        there = machine._replace(hosts=hosts)
        chosen = climb(model, there, wish.on(there.world), presets).chosen
        found.append(Change("hosts", hosts, rung or (chosen.rung if chosen else RUNGS[-1])))
    return found


def _exact_pinning(
    model: Architecture, machine: Machine, wish: Wish, presets: Presets, rung: Rung | None
) -> Iterator[Change]:
    """Pinned memory that is not rounded up to a power of two, where that alone is what a host lacks."""
    exact = wish._replace(pinned_round=EXACT)
    if rung is None:
        chosen = climb(model, machine, exact, presets).chosen
        rung = chosen.rung if chosen else None
    if rung and wish.pinned_round is None and try_rung(model, machine, exact, rung, presets).fits:
        yield Change("pinning", EXACT // memory.MIB, rung)


# Bytes of pinned tensors that may still be rounded up: small ones, which are allocated anew all the time.
EXACT = 64 * memory.MIB


def _smaller_micro(
    model: Architecture, machine: Machine, wish: Wish, presets: Presets, rung: Rung | None
) -> list[Change]:
    """The rung that needs the smallest change, with its largest micro batch that divides the step's samples."""
    choices = [rung] if rung is not None else [t.rung for t in ordered(model, machine, wish, presets)]
    sizes = {r: largest_micro(model, machine, wish, presets, r) for r in choices}
    best = max(choices, key=lambda r: min(sizes[r], wish.micro), default=None)
    if best is None or sizes[best] >= wish.micro:
        return []
    whole = (m for m in range(sizes[best], 0, -1) if wish._replace(micro=m).divides(machine.world))
    return [Change("micro", m, best) for m in whole][:1]


def setup(machine: Machine, wish: Wish, rung: Rung) -> Setup:
    """The rung on this machine, as memory.py and traffic.py take it."""
    return sizing_setup.Setup(
        world=machine.world,
        slots=machine.slots,
        micro=wish.micro,
        sequence=wish.sequence,
        checkpointing=rung.checkpointing,
        attention=wish.attention,
        workers=wish.workers,
        device="cpu" if machine.gpu is None else "cuda",
        pinned_round=wish.pinned_round,
    )


@functools.lru_cache(maxsize=1024)
def _gigabytes(count: int) -> str:
    return f"{count / 10**9:.1f} GB"

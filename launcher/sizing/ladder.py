"""Which DeepSpeed configuration to use: the candidates, the memory and time of each, and the fastest that fits.

Owns the order of candidates and the comparison with a machine's memory; leaves bytes to memory.py and seconds to
traffic.py, what a candidate writes to ds_config.json to deepspeed.config, and what would make it fit to changes.py.

    machine = ladder.Machine(hosts=4, slots=8, slot_memory=..., host_memory=..., nvme=0, gpu=..., fabric=...)
    search = ladder.search(architecture, machine, request)
      .chosen   Evaluation or None: the first candidate that fits
      .tried    every candidate up to it, fastest first, each with its memory and why it does not fit
      .largest_micro    sequences: the largest micro batch that fits with the chosen candidate
    ladder.evaluate(architecture, machine, request, ladder.Candidate("zero2", False))   one candidate alone

Candidates are sorted by the bound on their step time (traffic.bound) when the machine's GPU and fabric have figures;
those that come out alike, and all of them without figures, keep the order of CANDIDATES. A bound flatters stage 3,
so it counts as slower than stage 1 by STAGE_3 at least; ZeRO++ competes with it where the fabric is slow.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any

from launcher.deepspeed import config
from launcher.namedtuple import NamedTuple
from launcher.sizing import memory, traffic, zero
from launcher.sizing.setup import WHOLE, Setup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from launcher.sizing.architecture import Architecture
    from launcher.sizing.gpus import Gpu
    from launcher.sizing.memory import Memory
    from launcher.sizing.setup import Learning


class Candidate(NamedTuple):
    """A preset of templates/deepspeed/, with or without activation checkpointing."""

    preset: str
    checkpointing: bool

    @property
    def name(self) -> str:
        return self.preset + (" with activation checkpointing" if self.checkpointing else "")


# Stages in the order of what they cost (DeepSpeed's and Hugging Face's advice: ZeRO-2 before ZeRO-3, offload after,
# https://huggingface.co/docs/transformers/deepspeed), each first without recomputation, which costs a third more
# arithmetic. Stages 1 and 2 send the same, so both come before recomputation.
CANDIDATES = (
    Candidate("zero1", False),
    Candidate("zero2", False),
    Candidate("zero1", True),
    Candidate("zero2", True),
    Candidate("zero2-offload", False),
    Candidate("zero2-offload", True),
    Candidate("zero3", False),
    Candidate("zeropp", False),
    Candidate("zero3", True),
    Candidate("zeropp", True),
    Candidate("zero3-offload-optimizer", False),
    Candidate("zero3-offload-optimizer", True),
    Candidate("zero3-offload", False),
    Candidate("zero3-offload", True),
    Candidate("zero3-nvme", True),
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


class Request(NamedTuple):
    """What the job asks for, whatever the candidate. `checkpointing` None: the search may choose."""

    inputs: config.Inputs
    micro: int
    accumulation: int
    sequence: int  # tokens of a sample on one rank
    train: int | None = None  # samples of a step, which must divide; None: what `accumulation` makes of them
    sequence_parallel: int = 1  # ranks that share a sample
    checkpointing: bool | None = None
    attention: str = "sdpa"
    learning: Learning = WHOLE  # this and the others as in Setup
    pinned_round: int | None = None
    copies: bool = False

    def divides(self, world: int) -> bool:
        """Whether a step's samples divide among `world` ranks in whole micro batches."""
        return self.train is None or self.train * self.sequence_parallel % (self.micro * world) == 0

    def on(self, world: int) -> Request:
        """The same with the accumulation that its step has on `world` ranks."""
        if self.train is None:
            return self
        passes = max(1, self.train * self.sequence_parallel // (self.micro * world))
        return self._replace(accumulation=passes)

    def config(self, preset: str, machine: Machine) -> dict[str, Any]:
        """The ds_config.json of `preset` on `machine`."""
        readers = max(1, machine.world // self.sequence_parallel)
        batch = config.BatchSizes(self.micro, self.accumulation, self.micro * self.accumulation * readers)
        return config.make(self.inputs, preset, machine.hosts, batch)


class Evaluation(NamedTuple):
    """One candidate: its ds_config.json, what it needs, why it does not fit (nothing when it does), its least time."""

    candidate: Candidate
    config: Mapping[str, Any]
    settings: zero.Zero  # what the configuration means for memory and traffic
    setup: Setup
    memory: Memory
    shortfalls: tuple[str, ...]
    bound: traffic.Bound | None  # None: the GPU is not known

    @property
    def fits(self) -> bool:
        return not self.shortfalls

    @property
    def seconds(self) -> float | None:
        """The bound on a step; None where it is not known."""
        return self.bound.step if self.bound else None


class Search(NamedTuple):
    """The candidates tried, fastest first; the one chosen (the last, if any fits); its largest micro batch."""

    tried: tuple[Evaluation, ...]
    chosen: Evaluation | None
    largest_micro: int


def search(model: Architecture, machine: Machine, request: Request) -> Search:
    """Try candidates, fastest first, until one fits."""
    tried = []
    for evaluation in ordered(model, machine, request):
        tried.append(evaluation)
        if evaluation.fits:
            largest = largest_micro(model, machine, request, evaluation.candidate)
            return Search(tuple(tried), evaluation, largest)
    return Search(tuple(tried), None, 0)


def ordered(model: Architecture, machine: Machine, request: Request) -> list[Evaluation]:
    """Every candidate that this machine can have, evaluated, fastest first."""
    tried = [evaluate(model, machine, request, candidate) for candidate in candidates(machine, request)]
    known = {e.candidate: e.seconds for e in tried if e.seconds is not None}
    return sorted(tried, key=lambda e: _cost(e.candidate, known)) if len(known) == len(tried) else tried


def _cost(candidate: Candidate, seconds: Mapping[Candidate, float]) -> float:
    """Seconds to sort by. Stage 3 is not taken for faster than stage 1 where that can be had."""
    cost = seconds[candidate]
    first = seconds.get(Candidate("zero1", candidate.checkpointing), 0.0)
    if candidate.preset.startswith("zero3"):
        cost = STAGE_3 * max(cost, first)
    if candidate.preset == "zeropp":
        plain = seconds.get(Candidate("zero3", candidate.checkpointing), cost)
        cost = max(cost / plain * STAGE_3 * max(plain, first), first)
    # Rounded, so that the last digits do not decide between candidates that move the same bytes.
    return float(f"{cost:.2e}")


def candidates(machine: Machine, request: Request) -> Iterator[Candidate]:
    """Those of CANDIDATES that the machine and the job allow."""
    for candidate in CANDIDATES:
        if request.checkpointing in (None, candidate.checkpointing) and possible(candidate.preset, machine):
            yield candidate


def possible(preset: str, machine: Machine) -> bool:
    """Whether the machine has what the preset is for."""
    if preset == "zeropp":  # it keeps its second copy within a host and needs CUDA for its quantizers
        return machine.hosts > 1 and machine.slots > 1 and machine.gpu is not None
    return preset != "zero3-nvme" or machine.nvme > 0


def evaluate(model: Architecture, machine: Machine, request: Request, candidate: Candidate) -> Evaluation:
    """One candidate's configuration, its memory, why it does not fit, and the bound on its step."""
    ds_config = request.config(candidate.preset, machine)
    settings = zero.read(zero.filled_by_trainer(ds_config, model.hidden))
    setup = Setup(
        world=machine.world,
        slots=machine.slots,
        micro=request.micro,
        sequence=request.sequence,
        checkpointing=candidate.checkpointing,
        attention=request.attention,
        learning=request.learning,
        shared=request.sequence_parallel,
        device="cpu" if machine.gpu is None else "cuda",
        pinned_round=request.pinned_round,
        copies=request.copies,
    )
    needed = memory.estimate(model, settings, setup)
    bound = None
    if machine.gpu is not None and machine.gpu.timed:
        rates = traffic.Rates(machine.fabric)
        bound = traffic.bound(model, settings, setup, gpu=machine.gpu, rates=rates)
    return Evaluation(
        candidate=candidate,
        config=ds_config,
        settings=settings,
        setup=setup,
        memory=needed,
        shortfalls=tuple(shortfalls(needed, machine)),
        bound=bound,
    )


def shortfalls(needed: Memory, machine: Machine) -> Iterator[str]:
    """Why `needed` does not fit `machine`; what is not known of the machine is not compared."""
    limits = (
        ("GPU" if machine.gpu else "rank", needed.slot.total, machine.slot_memory),
        ("host", needed.host.total, machine.host_memory),
        ("host's NVMe", needed.nvme, machine.nvme),
    )
    for where, wanted, available in limits:
        if available is not None and wanted > available:
            yield f"needs {wanted / 1e9:.1f} GB per {where}, {available / 1e9:.1f} GB available"


def largest_micro(model: Architecture, machine: Machine, request: Request, candidate: Candidate) -> int:
    """The largest micro batch that fits with `candidate`; 0 when not even one sequence does."""

    def fits(micro: int) -> bool:
        return evaluate(model, machine, request._replace(micro=micro), candidate).fits

    return largest(fits) if machine.slot_memory is not None and fits(1) else 0


def largest(fits: Callable[[int], bool], least: int = 1) -> int:
    """The largest number that fits, given that `least` does and that what is larger fits less."""
    above = 2 * least
    while fits(above):
        above *= 2
    numbers = range(above // 2, above)
    return numbers[bisect.bisect_left(numbers, True, key=lambda number: not fits(number)) - 1]

"""Whether a job's training fits its cluster, and which DeepSpeed preset `auto` becomes.

Owns the way from job and cluster to the ladder's words and back to hints in theirs; the arithmetic is `ladder`'s.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import workloads
from launcher.deepspeed import config
from launcher.errors import PlanError, Problem
from launcher.sizing import failures, gpus, ladder, models, traffic, zero

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.sizing.architecture import Architecture
    from launcher.sizing.ladder import Climb, Machine, Rung, Try, Wish

# What `auto` is where the size of the model is not known: DeepSpeed's advice for models that fit on one GPU.
BLIND = "zero2"


class Saving(NamedTuple):
    """Checkpoints: bytes and seconds; None where a step's time or the rate of failures is not known."""

    size: int
    on_disk: int  # those that are kept, and the one that is being written
    seconds: float | None  # from one to the next, at best
    lost: float | None  # share of the time
    longest: float | None  # seconds with which failures.MOST is lost
    steps: int | None  # the same in steps, at best


class Fit(NamedTuple):
    """A training job, weighed: the `weighed` rung is the one that the plan uses; `climb` is how `auto` got there."""

    model: Architecture
    machine: Machine
    wish: Wish
    presets: Mapping[str, Mapping[str, Any]]
    weighed: Try
    climb: Climb | None
    every: int  # steps between checkpoints
    keep: int  # checkpoints

    @property
    def fits(self) -> bool:
        return self.weighed.fits

    @property
    def rung(self) -> Rung:
        return self.weighed.rung

    @property
    def part(self) -> int:
        """Elements of a rank's part of the largest tensor."""
        return _part(self.model, self.machine)

    @property
    def bound(self) -> traffic.Bound | None:
        """The shortest possible step, where the GPU's figures are known."""
        if self.machine.gpu is None:
            return None
        settings = zero.read(
            ladder.effective(self.wish.base, self.presets[self.rung.preset], self.machine.slots)
        )
        setup = ladder.setup(self.machine, self.wish, self.rung)
        return traffic.bound(self.model, settings, setup, self.machine.gpu, self.machine.fabric)

    @property
    def compared(self) -> tuple[Try, ...]:
        """The configurations to show beside the one taken: those that `auto` tried, else the stages of ZeRO."""
        if self.climb:
            return self.climb.tried
        # a stage that the job writes itself lies over every preset: then there is nothing to compare
        stages = [n for n in (0, 1, 2, 3) if self.presets[f"zero{n}"]["zero_optimization"]["stage"] == n]
        others = (ladder.Rung(f"zero{stage}", self.rung.checkpointing) for stage in stages)
        tries = [self._try(rung) for rung in others if rung != self.rung]
        return tuple(sorted([*tries, self.weighed], key=lambda t: t.rung.preset))

    @property
    def saving(self) -> Saving:
        """What checkpoints take, and what failures cost between them."""
        hosts, bound = self.machine.hosts, self.bound
        step = bound.step if bound else None
        between = step * self.every if step else None
        known = self.machine.gpu is not None  # the rate of failures is that of hosts with GPUs
        longest = failures.longest(hosts, failures.MOST) if known else None
        return Saving(
            size=self.weighed.memory.checkpoint,
            on_disk=self.weighed.memory.checkpoint * (self.keep + 1),
            seconds=between,
            lost=failures.lost(hosts, between) if known and between else None,
            longest=longest,
            steps=int(longest / step) if longest and step else None,
        )

    def _try(self, rung: Rung) -> Try:
        return ladder.try_rung(self.model, self.machine, self.wish, rung, self.presets)

    def refusal(self) -> PlanError:
        """What to say of a job that does not fit: why, and the smallest change that would make it fit."""
        only = None if self.climb else self.rung
        found = ladder.changes(self.model, self.machine, self.wish, self.presets, only)
        settings = ", or ".join(self._setting(change) for change in found)
        hint = f"use {settings}" if found else "no single change makes it fit: use more and larger hosts"
        if not self.climb:
            reasons = "; ".join(self.weighed.reasons)
            what, about = f"{self.rung.name} does not fit: {reasons}", ("job", "deepspeed")
        else:
            tried = [f"{t.rung.name}: {'; '.join(t.reasons)}" for t in self.climb.tried]
            what, about = "no DeepSpeed configuration fits:\n  " + "\n  ".join(tried), ("job", "model")
        return PlanError(Problem(what, hint, about=about))

    def _setting(self, change: ladder.Change) -> str:
        """A change as the words of the command line."""
        recompute = "--set args.activation-checkpointing=true"
        match change.what:
            case "micro":
                return f"--set batch.micro={change.value}"
            case "hosts":
                return f"--set nodes={change.value}"
            case "pinning":
                return f"--set env.{_ALLOCATOR[0]}={_ROUND}:{change.value}"
            case "preset":
                more = f" {recompute}" if change.rung.checkpointing and not self.rung.checkpointing else ""
                return f"--set deepspeed={change.value}{more}"
            case _:
                return recompute


def insisted(job: Job) -> str | None:
    """The preset that the job asks for, by name or by the stage that it writes; None where the plan may choose."""
    if job.deepspeed.preset != "auto":
        return job.deepspeed.preset
    zero_keys = job.deepspeed.overrides.get("zero_optimization")
    stage = zero_keys.get("stage") if isinstance(zero_keys, dict) else None
    return None if stage is None else f"zero{stage}"


def precision(job: Job, cluster: Cluster) -> str:
    """What the job computes in: bf16 needs compute capability 8.0; on a CPU fp32 is what is fast everywhere."""
    if job.precision != "auto":
        return job.precision
    if cluster.gpu is None:
        return "fp32"
    return "bf16" if gpus.GPUS[cluster.gpu].capability >= (8, 0) else "fp16"


def weigh(job: Job, cluster: Cluster, numbers: config.Batch, precision: str) -> tuple[Fit | None, str]:
    """The job's Fit, or None and why its memory cannot be told. Raises SpecError for a model that is none."""
    if job.workload not in workloads.TRAINING or job.model is None:
        return None, f"the memory of workload {job.workload!r} is not estimated"
    model = models.load_if_here(job.model)
    if isinstance(model, models.Unknown):
        return None, model.reason
    return of(model, job, cluster, numbers, precision), ""


def of(model: Architecture, job: Job, cluster: Cluster, numbers: config.Batch, precision: str) -> Fit:
    """The Fit of the job with `model` in place of its own."""
    machine = _machine(job, cluster)
    wish = _wish(job, cluster, numbers, precision)
    given = config.resolved(job.deepspeed.overrides, precision)
    overrides = config.by_trainer(given, model.hidden)
    part = _part(model, machine)
    presets = {name: config.laid_over(config.preset(name), overrides, part) for name in config.presets()}
    preset = insisted(job)
    if preset is not None:
        rung = ladder.Rung(preset, bool(wish.checkpointing))
        tried, climb = ladder.try_rung(model, machine, wish, rung, presets), None
    else:
        climb = ladder.climb(model, machine, wish, presets)
        tried = climb.chosen or climb.tried[-1]
    return Fit(
        model, machine, wish, presets, tried, climb, every=job.checkpoint.every, keep=job.checkpoint.keep
    )


def too_long(job: Job, one: Fit) -> Problem | None:
    """A sequence with more tokens than the model has positions: the workload would stop at its first step."""
    model = one.model
    strict = job.workload == "pretrain" or model.learned_positions
    length = one.wish.sequence * sharing(job)
    if length <= model.positions or not strict:
        return None
    return Problem(
        f"args.seq-length {length} is more than the {model.positions} positions of {model.name}",
        f"use args.seq-length={model.positions}, or a model with more",
        about=("job", "args", "seq-length"),
    )


def sharing(job: Job) -> int:
    """How many ranks share each sample (DeepSpeed's Ulysses); 1 where that is not asked for."""
    asked = job.args.get("sequence-parallel", 1)
    return asked if isinstance(asked, int) and asked > 0 else 1


def readers(job: Job, cluster: Cluster) -> int:
    """How many samples are worked on at once for each of a micro batch: ranks, or groups of ranks that share them."""
    return max(1, job.nodes * cluster.slots // sharing(job))


def unshareable(job: Job, cluster: Cluster, one: Fit | None) -> Iterator[Problem]:
    """Why samples cannot be shared among ranks as the job asks."""
    size, world = sharing(job), job.nodes * cluster.slots
    parts: list[tuple[int, str]] = [(world, f"{world} ranks")]
    if one and size > 1:
        length, heads = one.wish.sequence * size, one.model.heads
        written = job.args.get("seq-length", length)
        parts += [
            (int(written), f"args.seq-length {written}"),
            (heads, f"{heads} attention heads of {job.model}"),
        ]
        if one.model.family == "gpt2":
            what = f"args.sequence-parallel: DeepSpeed's Ulysses knows no {one.model.family}"
            yield Problem(what, "use a model of LLaMA's kind", about=("job", "args", "sequence-parallel"))
    for number, what in parts:
        if number % size:
            yield Problem(
                f"args.sequence-parallel {size} does not divide the {what}",
                f"use {math.gcd(number, size)}",
                about=("job", "args", "sequence-parallel"),
            )


def _part(model: Architecture, machine: Machine) -> int:
    return math.ceil(model.largest_parameter / machine.world)


def _machine(job: Job, cluster: Cluster) -> Machine:
    gpu = gpus.GPUS[cluster.gpu] if cluster.gpu else None
    memory = cluster.memory
    # without a GPU all ranks share the host's memory
    slot = gpu.memory if gpu else memory // cluster.slots if memory else None
    fabric = cluster.bandwidth * 1e9 / 8 if cluster.bandwidth else None
    nvme = cluster.nvme.size if cluster.nvme else 0
    return ladder.Machine(job.nodes, cluster.slots, slot, memory, nvme, gpu, fabric)


# torch's allocators read either name: c10/core/AllocatorConfig.h
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_ROUND = "pinned_max_round_threshold_mb"


def _pinned_round(job: Job, cluster: Cluster) -> int | None:
    """Bytes above which torch does not round pinned memory up, as the environment has it."""
    for name in _ALLOCATOR:
        variable = job.env.get(name) or cluster.env.get(name)
        options = dict(o.partition(":")[::2] for o in ((variable and variable.value) or "").split(","))
        if options.get(_ROUND, "").strip().isdecimal():
            return int(options[_ROUND]) * 2**20
    return None


def _wish(job: Job, cluster: Cluster, numbers: config.Batch, precision: str) -> Wish:
    base: dict[str, Any] = {"gradient_accumulation_steps": numbers.accumulation}
    if precision in {"bf16", "fp16"}:
        base[precision] = {"enabled": True}
    if "optimizer" not in job.deepspeed.overrides:
        base["optimizer"] = {"type": "AdamW"}
    option = {
        name: job.args.get(name, workloads.default(job.workload, name))
        for name in ("seq-length", "attention")
    }
    return ladder.Wish(
        micro=numbers.micro,
        # of each rank; attention sees the whole sequence, but a share of the heads that is as large
        sequence=max(1, int(option["seq-length"] or 1) // sharing(job)),
        base=base,
        checkpointing=job.args.get("activation-checkpointing"),
        attention=str(option["attention"] or "sdpa"),
        train=job.batch.global_ * sharing(job) if job.batch.global_ else None,
        pinned_round=_pinned_round(job, cluster),
    )

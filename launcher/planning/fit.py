"""Whether a job's training fits its cluster, and which DeepSpeed preset `auto` becomes.

Owns the way from job and cluster to the words of sizing and back to hints in theirs; the arithmetic is sizing's.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.deepspeed import config, spellings
from launcher.errors import PlanError, Problem, SpecError, of_field
from launcher.files.job import Nodes
from launcher.namedtuple import NamedTuple
from launcher.planning import learning, profiling, splitting
from launcher.sizing import changes, failures, ladder, models, states

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.sizing import traffic
    from launcher.sizing.architecture import Architecture
    from launcher.sizing.ladder import Candidate, Evaluation, Machine, Request, Search

# What `auto` is where the size of the model that a job names is not known: what takes the least of a GPU without the
# host's memory. A program that names none gets DeepSpeed's advice for models that fit on one GPU.
BLIND, NAMELESS = "zero3", "zero2"
RANK = 16  # of the adapters that a refusal proposes


class Saving(NamedTuple):
    """Checkpoints: bytes and seconds; None where a step's time or the rate of failures is not known."""

    size: int
    on_disk: int  # those that are kept, and the one that is being written
    seconds: float | None  # from one to the next, at best
    lost: float | None  # share of the time
    longest: float | None  # seconds with which failures.MOST is lost
    steps: int | None  # the same in steps, at best


class Estimate(NamedTuple):
    """What a training job needs. `evaluation` is of the plan's configuration; `search` is how `auto` became it."""

    named: Architecture  # as the job names it
    model: Architecture  # as it is trained, with adapters or another head
    machine: Machine
    request: Request
    evaluation: Evaluation
    search: Search | None
    every: int  # steps between checkpoints
    keep: int  # checkpoints
    hosts: int | None = None  # that the cluster has; None: not said
    known_length: bool = True  # how many tokens a sample has; a user's program may not say it
    saves: bool = True  # checkpoints; a user's program may not

    @property
    def fits(self) -> bool:
        return self.evaluation.fits

    @property
    def candidate(self) -> Candidate:
        return self.evaluation.candidate

    @property
    def part(self) -> int:
        """Elements of a rank's part of the largest tensor."""
        return states.shard(self.model.largest_parameter, self.machine.world)

    @property
    def compared(self) -> tuple[Evaluation, ...]:
        """The configurations to show beside the one taken: those that `auto` tried, else the stages of ZeRO."""
        if self.search:
            return self.search.tried
        stages = {stage: ladder.Candidate(f"zero{stage}", self.candidate.checkpointing) for stage in range(4)}
        others = {stage: self._evaluate(c) for stage, c in stages.items() if c != self.candidate}
        # a stage that the job writes itself lies over every preset: then there is nothing to compare
        differing = [e for stage, e in others.items() if e.settings.stage == stage]
        return tuple(sorted([*differing, self.evaluation], key=lambda e: e.candidate.preset))

    @property
    def largest_micro(self) -> int:
        """The largest micro batch that fits with the plan's configuration."""
        if self.search:
            return self.search.largest_micro
        return ladder.largest_micro(self.model, self.machine, self.request, self.candidate)

    @property
    def bound(self) -> traffic.Bound | None:
        """The least time of a step; None where it is not known, as of sampled answers, which take most of theirs."""
        return self.evaluation.bound if self.told else None

    @property
    def told(self) -> bool:
        """Whether the time of a step follows from what is known of the job."""
        return self.known_length and not self.evaluation.setup.learning.sampled

    @property
    def trained(self) -> int | None:
        """Parameters that have gradients; None for adapters of a model whose layers are not known."""
        return self.model.trained if self.model.adapted else None

    @property
    def saving(self) -> Saving | None:
        """What checkpoints take, and what failures cost between them; None where there are none, or of unknown size."""
        if not self.saves or self.trained is None:
            return None
        hosts, step = self.machine.hosts, self.bound.step if self.bound else None
        between = step * self.every if step else None
        known = self.machine.gpu is not None  # the rate of failures is that of hosts with GPUs
        longest = failures.longest(hosts, failures.MOST) if known else None
        return Saving(
            size=self.evaluation.memory.checkpoint,
            on_disk=self.evaluation.memory.checkpoint * (self.keep + 1),
            seconds=between,
            lost=failures.lost(hosts, between) if known and between else None,
            longest=longest,
            steps=int(longest / step) if longest and step else None,
        )

    def _evaluate(self, candidate: Candidate) -> Evaluation:
        return ladder.evaluate(self.model, self.machine, self.request, candidate)

    def refusal(self, more: Sequence[str] = ()) -> PlanError:
        """What to say of a job that does not fit: why, and the smallest change that would make it fit, or `more`."""
        only = None if self.search else self.candidate
        every = changes.smallest(self.model, self.machine, self.request, only)
        smallest = [c for c in every if c.what != "hosts" or not self.hosts or int(c.value) <= self.hosts]
        settings = ", or ".join([*map(self._setting, smallest), *more])
        otherwise = "a smaller model, or larger hosts" if self.hosts else "more and larger hosts"
        hint = f"use {settings}" if settings else f"no single change makes it fit: use {otherwise}"
        if not self.search:
            reasons = "; ".join(self.evaluation.shortfalls)
            what, about = f"{self.candidate.name} does not fit: {reasons}", ("job", "deepspeed")
        else:
            tried = [f"{e.candidate.name}: {'; '.join(e.shortfalls)}" for e in self.search.tried]
            what, about = "no DeepSpeed configuration fits:\n  " + "\n  ".join(tried), ("job", "model")
        return PlanError(Problem(what, hint, about=about))

    def _setting(self, change: changes.Change) -> str:
        """A change as the words of the command line."""
        recompute = "--set args.activation-checkpointing=true"
        match change.what:
            case "micro":
                return f"--set batch.micro={change.value}"
            case "hosts":
                return f"--set nodes={change.value}"
            case "pinning":
                return f"--set env.{_ALLOCATOR[0]}={_ROUND}:{change.value}"
            case "copies":
                return "--set checkpoint.async=false"
            case "preset":
                more = (
                    f" {recompute}"
                    if change.candidate.checkpointing and not self.candidate.checkpointing
                    else ""
                )
                return f"--set deepspeed={change.value}{more}"
            case _:
                return recompute


def requested_preset(job: Job) -> str | None:
    """The preset that the job asks for, by name or by the stage that it writes; None where the plan may choose."""
    if job.deepspeed.preset != "auto":
        return job.deepspeed.preset
    zero_keys = spellings.canonical(job.deepspeed.overrides).get("zero_optimization")
    stage = zero_keys.get("stage") if isinstance(zero_keys, dict) else None
    return None if stage is None else f"zero{stage}"


def precision(job: Job, cluster: Cluster) -> str:
    """What the job computes in: what it or its DeepSpeed configuration names, else what its GPU is good at.

    bf16 needs compute capability 8.0; on a CPU fp32 is what is fast everywhere.
    """
    if job.precision != "auto":
        return job.precision
    given = job.deepspeed.overrides
    on = [
        name
        for name in ("bf16", "fp16")
        if isinstance(given.get(name), dict) and given[name].get("enabled") is True
    ]
    if len(on) == 1:
        return on[0]
    if cluster.card is None:
        return "fp32"
    return "bf16" if cluster.card.capability >= (8, 0) else "fp16"


def batch(job: Job, cluster: Cluster) -> config.BatchSizes:
    """The numbers of the job's step. Raises PlanError when they do not divide."""
    asked = job.batch
    return config.batch(asked.micro, asked.accumulation, asked.global_, data_parallel_size(job, cluster))


def inputs(job: Job, cluster: Cluster, model: Architecture | None = None) -> config.Inputs:
    """What decides the job's DeepSpeed configuration beside the preset, the hosts and the batch."""
    return config.Inputs(
        overrides=config.merge(profiling.keys(job), job.deepspeed.overrides),
        precision=precision(job, cluster),
        slots=cluster.slots,
        nvme=cluster.nvme.path if cluster.nvme else None,
        largest_parameter=model.largest_parameter if model else None,
        shared=splitting.samples(job) * splitting.models(job) > 1,
    )


def estimate_or_reason(
    job: Job, cluster: Cluster, hub: models.Found | None = None
) -> tuple[Estimate | None, str]:
    """The job's Estimate, or None and why its memory is not known. `hub`: what is known of a hub's model.

    Raises SpecError for a model that is none, and PlanError for a batch that does not divide.
    """
    own = workloads.is_script(job.workload)
    if not (own or workloads.traits(job.workload).estimated) or job.model is None:
        return None, f"the memory of workload {job.workload!r} is not estimated"
    if reason := splitting.reason(job):
        return None, reason
    try:
        model = models.load_if_here(job.model, hub, encoders=own or workloads.traits(job.workload).encoders)
    except SpecError as error:
        if not own:  # whose model may be anything
            raise
        return None, f"its memory is not estimated: {error.problems[0].message}"
    if isinstance(model, models.Unknown):
        return None, model.reason
    return estimate(model, job, cluster), ""


def memory_note(cluster: Cluster, torch: int) -> str:
    """What to say where `torch` has less bytes of a GPU than the plan counts with; '' where it has them."""
    card = cluster.card
    if card is None or torch >= 0.995 * card.memory:
        return ""
    written = f"gpu: {{name: {cluster.gpu_name}, memory: {torch // 2**20}MiB}}"
    return (
        f"torch had {torch / 1e9:.1f} GB of a GPU of this cluster, and the plan counts with"
        f" {card.memory / 1e9:.1f} GB; write `{written}` into the cluster file"
    )


def blind_preset(job: Job) -> str:
    """What `deepspeed: auto` is where no memory is estimated."""
    return BLIND if job.model is not None and workloads.steps(job.workload) else NAMELESS


def blind(job: Job, cluster: Cluster) -> tuple[str, dict[str, Any]]:
    """The preset and DeepSpeed's configuration where no memory of training is estimated."""
    preset = requested_preset(job) or blind_preset(job)
    return preset, config.make(inputs(job, cluster), preset, job.nodes.max, batch(job, cluster))


def estimate(model: Architecture, job: Job, cluster: Cluster) -> Estimate:
    """The Estimate of the job with `model` in place of its own. Raises PlanError for a batch that does not divide."""
    machine, request = _machine(job, cluster), _request(model, job, cluster)
    named, model = model, learning.model(model, job)
    preset, search = requested_preset(job), None
    if preset is not None:
        candidate = ladder.Candidate(preset, bool(request.checkpointing))
        evaluation = ladder.evaluate(model, machine, request, candidate)
    else:
        search = ladder.search(model, machine, request)
        evaluation = search.chosen or search.tried[-1]
    return Estimate(
        named=named,
        model=model,
        machine=machine,
        request=request,
        evaluation=evaluation,
        search=search,
        every=job.checkpoint.every,
        keep=job.checkpoint.keep,
        hosts=cluster.hosts,
        known_length=bool(learning.sequence(job)),
    )


def adapters(found: Estimate, job: Job, cluster: Cluster) -> list[str]:
    """The setting with which a job that trains all weights would fit: adapters beside them. None where it would not."""
    own = workloads.is_script(job.workload)
    if own or learning.adapts(job) or not workloads.takes(job.workload, "lora-rank"):
        return []
    nodes, args = Nodes(max=found.machine.hosts), {**job.args, "lora-rank": RANK}
    other = estimate(found.named, dataclasses.replace(job, nodes=nodes, args=args), cluster)
    return [f"--set args.lora-rank={RANK}"] if other.fits and other.trained is not None else []


def sequence_problem(job: Job, estimate: Estimate) -> Problem | None:
    """A sequence with more tokens than the model has positions: the workload would stop at its first step."""
    model = estimate.model
    traits = workloads.traits(job.workload)
    if traits.learning and traits.learning.padded:  # which cuts examples to the positions
        return None
    strict = traits.bounded_length or model.learned_positions
    length = estimate.request.sequence * sequence_parallel_degree(job)
    if not model.positions or length <= model.positions or not strict:
        return None
    what = f"{length} is more than the {model.positions} positions of {model.name}"
    hint = f"use args.seq-length={model.positions}, or a model with more"
    return of_field("job", "args.seq-length", what, hint)


def sequence_parallel_degree(job: Job) -> int:
    """How many ranks share each sample (DeepSpeed's Ulysses); 1 where that is not asked for."""
    if workloads.is_script(job.workload):
        return splitting.samples(job)
    asked = job.args.get("sequence-parallel", 1)
    return asked if isinstance(asked, int) and asked > 0 else 1


def ranks_together(job: Job) -> int:
    """How many ranks work on the same micro batch: they share its samples, or one copy of the model."""
    return sequence_parallel_degree(job) * splitting.models(job)


def data_parallel_size(job: Job, cluster: Cluster) -> int:
    """How many micro batches are worked on at once: ranks, or groups of ranks that share samples or the model."""
    return max(1, job.nodes.max * cluster.slots // ranks_together(job))


def sequence_parallel_problems(job: Job, cluster: Cluster, estimate: Estimate | None) -> Iterator[Problem]:
    """Why samples cannot be shared among ranks as the job asks."""
    if workloads.is_script(job.workload):
        yield from splitting.problems(job, cluster)
        return
    size, world = sequence_parallel_degree(job), job.nodes.max * cluster.slots
    parts: list[tuple[int, str]] = [(world, f"{world} ranks")]
    if estimate and size > 1:
        heads = estimate.model.heads
        written = job.args.get("seq-length") or workloads.default(job.workload, "seq-length") or size
        parts += [
            (int(written), f"args.seq-length {written}"),
            (heads, f"{heads} attention heads of {job.model}"),
        ]
        if estimate.model.family == "gpt2":
            what = f"args.sequence-parallel: DeepSpeed's Ulysses does not support {estimate.model.family}"
            yield Problem(what, "use a model of LLaMA's kind", about=("job", "args", "sequence-parallel"))
    for number, what in parts:
        if number % size:
            what = f"{size} does not divide the {what}"
            yield of_field("job", "args.sequence-parallel", what, f"use {math.gcd(number, size)}")


def _machine(job: Job, cluster: Cluster) -> Machine:
    gpu = cluster.card
    memory = cluster.memory
    # without a GPU all ranks share the host's memory
    slot = gpu.memory if gpu else memory // cluster.slots if memory else None
    return ladder.Machine(
        hosts=job.nodes.max,
        slots=cluster.slots,
        slot_memory=slot,
        host_memory=memory,
        nvme=cluster.nvme.size if cluster.nvme else 0,
        gpu=gpu,
        fabric=cluster.bandwidth * 1e9 / 8 if cluster.bandwidth else None,
    )


# torch's allocators read either name: c10/core/AllocatorConfig.h
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_ROUND = "pinned_max_round_threshold_mb"


def _pinned_round(job: Job, cluster: Cluster) -> int | None:
    """Bytes above which torch does not round pinned memory up, as the environment has it."""
    for name in _ALLOCATOR:
        variable = job.env.get(name) or cluster.env.get(name)
        options = dict(o.partition(":")[::2] for o in ((variable and variable.value) or "").split(","))
        if re.fullmatch("[0-9]{1,9}", options.get(_ROUND, "").strip()):
            return int(options[_ROUND]) * 2**20
    return None


def _request(model: Architecture, job: Job, cluster: Cluster) -> Request:
    numbers, degree = batch(job, cluster), sequence_parallel_degree(job)
    return ladder.Request(
        inputs=inputs(job, cluster, model),
        micro=numbers.micro,
        accumulation=numbers.accumulation,
        # of each rank; attention sees the whole sequence, but a share of the heads that is as large
        sequence=max(1, learning.sequence(job, model.positions) // degree),
        train=job.batch.global_,
        sequence_parallel=degree,
        checkpointing=learning.recomputes(job),
        attention=str(learning.option(job, "attention") or "sdpa"),
        learning=learning.of(model, job),
        pinned_round=_pinned_round(job, cluster),
        copies=job.checkpoint.async_ and workloads.saves(job.workload),
    )

"""Whether a model that only generates fits its slots, and how many texts at once: of the workloads generate and serve.

Owns the way from a job's engine and options to the words of sizing, and the changes that help; the arithmetic is
sizing/inference.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.errors import PlanError, Problem, SpecError
from launcher.planning import fit
from launcher.planning.learning import option
from launcher.sizing import inference, model_files, models, zero
from launcher.sizing.inference import Asked, Capacity, Inference, Split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.sizing.architecture import Architecture

# vLLM's own: https://docs.vllm.ai/en/latest/configuration/engine_args.html
SHARE, TEXTS = 0.9, 256
# Tokens of a prompt that `generate` is planned with, beside those of the answer: it has no option for them.
PROMPT = 1024
# Options of vLLM's that change what weights, or keys and values, take.
OTHERWISE = {
    "quantization",
    "dtype",
    "cpu-offload-gb",
    "kv-cache-dtype",
    "load-format",
    "num-gpu-blocks-override",
}


def estimate_or_reason(
    job: Job, cluster: Cluster, hub: models.Found | None = None
) -> tuple[Inference | None, str]:
    """What the job needs on one slot, or None and why that is not known (nothing for a workload that trains)."""
    found = _model(job, hub)
    if found is None or isinstance(found, models.Unknown):
        return None, found.reason if found else ""
    if workloads.refusal(job.workload, job.args, job.model, hosts=job.nodes.max, slots=cluster.slots):
        return None, ""  # which the plan says
    if reason := _packed(job, hub):
        return None, reason
    return _estimate(found, job, cluster, _split(job, cluster)), ""


def _model(job: Job, hub: models.Found | None) -> Architecture | models.Unknown | None:
    if workloads.is_script(job.workload) or not workloads.traits(job.workload).generates or job.model is None:
        return None
    try:
        return models.load_if_here(job.model, hub)
    except SpecError as error:  # of a model that is none, the workload says more
        return models.Unknown(job.model, error.problems[0].message)


def _packed(job: Job, hub: models.Found | None) -> str:
    """Why weights or caches take other than two bytes an element; empty where nothing says so."""
    if changed := sorted(OTHERWISE & workloads.engine_options(job.args).keys()):
        return f"args.engine-options {changed[0]} changes what the model takes, which is not estimated"
    file = model_files.local(str(job.model))
    config = model_files.read(file) if file else hub.config if hub else None
    return (
        f"{job.model} is quantized, whose size is not estimated"
        if (config or {}).get("quantization_config")
        else ""
    )


def _estimate(model: Architecture, job: Job, cluster: Cluster, split: Split) -> Inference:
    memory = cluster.memory
    slot = cluster.card.memory if cluster.card else memory // cluster.slots if memory else None
    capacity = Capacity(slot, memory, cluster.nvme.size if cluster.nvme else None)
    return inference.estimate(model, split, _asked(model, job, cluster), capacity)


def _asked(model: Architecture, job: Job, cluster: Cluster) -> Asked:
    gpu = cluster.card is not None
    if workloads.traits(job.workload).serves:
        length = option(job, "max-length") or model.positions or PROMPT
        given, vllm = workloads.engine_options(job.args), option(job, "engine") == "vllm"
        return Asked(
            length=int(length),
            texts=int(given.get("max-num-seqs", TEXTS)) if vllm else 1,
            width=2 if gpu else 4,
            share=float(given.get("gpu-memory-utilization", SHARE)) if vllm else 1.0,
            gpu=gpu,
        )
    length = PROMPT + int(option(job, "max-new-tokens") or 0)
    width = 4 if fit.precision(job, cluster) == "fp32" else 2
    return Asked(min(length, model.positions or length), job.batch.micro, width, gpu=gpu)


def _split(job: Job, cluster: Cluster) -> Split:
    engine, slots = option(job, "engine"), cluster.slots
    if workloads.traits(job.workload).serves:
        if engine != "vllm":
            return Split()
        tensor = option(job, "tensor-parallel") or slots
        given = option(job, "tensor-parallel")
        return Split(tensor, option(job, "pipeline-parallel") or (1 if given else job.nodes.max), paged=True)
    settings = zero.read(fit.blind(job, cluster)[1])
    if engine == "zero" or (engine == "auto" and settings.stage == 3):
        return Split(partitioned=job.nodes.max * slots, offload=settings.offload_param, hosts=job.nodes.max)
    return Split(tensor=slots) if engine == "tensor-parallel" else Split()


def refusal(found: Inference, job: Job, cluster: Cluster) -> PlanError:
    """What to say of a job that does not fit: why, and what would make it fit."""
    what = f"{job.model} does not fit: {'; '.join(found.shortfalls)}"
    return PlanError(Problem(what, hint(found, job, cluster), about=("job", "model")))


def hint(found: Inference, job: Job, cluster: Cluster) -> str:
    """The smallest changes with each of which it would fit."""
    larger = "more or larger GPUs" if found.split.offload == "none" else "larger hosts"
    return f"use {', or '.join([*_changes(found, job, cluster)][:3]) or f'{larger}, or a smaller model'}"


def _changes(found: Inference, job: Job, cluster: Cluster) -> Iterator[str]:
    """Changes with each of which alone it fits, least first, in the words of the command line."""

    def fits(split: Split, asked: Asked = found.asked) -> bool:
        return inference.estimate(found.model, split, asked, found.capacity).fits

    def first(
        setting: str, values: Iterable[int], change: Callable[[int], tuple[Split, Asked]]
    ) -> Iterator[str]:
        yield from (f"--set {setting}={n}" for n in [*filter(lambda n: fits(*change(n)), values)][:1])

    split, asked = found.split, found.asked
    most = min(job.nodes.max + 15, cluster.hosts or job.nodes.max + 15)
    hosts = range(job.nodes.max + 1, most + 1)
    if split.paged:
        lengths = (n for n in (asked.length >> by for by in range(1, 12)) if n >= 256)
        yield from first("args.max-length", lengths, lambda n: (split, asked._replace(length=n)))
        tensor = (n for n in range(split.tensor + 1, cluster.slots + 1) if cluster.slots % n == 0)
        yield from first("args.tensor-parallel", tensor, lambda n: (split._replace(tensor=n), asked))
        if not option(job, "pipeline-parallel") and not option(job, "tensor-parallel"):
            yield from first("nodes", hosts, lambda n: (split._replace(pipeline=n), asked))
    elif not workloads.traits(job.workload).serves:
        fewer = (n for n in (asked.texts >> by for by in range(1, 12)) if n)
        yield from first("batch.micro", fewer, lambda n: (split, asked._replace(texts=n)))
        if split.partitioned > 1 or split.offload != "none":
            yield from first("nodes", hosts, lambda n: (_on(split, n, cluster), asked))
        yield from _other_engines(found, job, cluster, fits)


def _on(split: Split, nodes: int, cluster: Cluster) -> Split:
    """ZeRO-3's partitions over more hosts."""
    return split._replace(partitioned=nodes * cluster.slots, hosts=nodes)


def _other_engines(
    found: Inference, job: Job, cluster: Cluster, fits: Callable[[Split], bool]
) -> Iterator[str]:
    slots, world = cluster.slots, job.nodes.max * cluster.slots
    heads = found.model.heads % slots == 0 and found.model.kv_heads % slots == 0
    if found.split.tensor < slots and heads and fits(Split(tensor=slots)):
        yield "--set args.engine=tensor-parallel --set deepspeed=zero0"
    if found.split.partitioned < world and fits(Split(partitioned=world)):
        yield "--set args.engine=zero --set deepspeed=zero3"
    away = Split(partitioned=world, offload="cpu", hosts=job.nodes.max)
    if found.split.offload == "none" and fits(away):
        yield "--set args.engine=zero --set deepspeed=zero3-offload"

"""What cannot work of a job on its cluster, whatever its memory: hosts, precision, the workload's own refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.deepspeed import rules, view
from launcher.errors import Problem, of_field
from launcher.planning import background, fit, mounts, spares
from launcher.sizing import states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job


def problems(job: Job, cluster: Cluster) -> Iterator[Problem]:
    """What cannot work, seen before anything is estimated."""
    yield from spares.problems(job, cluster)
    if cluster.hosts and job.nodes.max > cluster.hosts:
        yield Problem(
            f"the job needs {job.nodes.max} hosts, the cluster has {cluster.hosts}",
            f"use nodes: {cluster.hosts}",
            about=("job", "nodes"),
        )
    if cluster.cpus and cluster.gpu is None and cluster.slots > cluster.cpus:
        what = f"{cluster.slots} exceeds the host's {cluster.cpus} cores"
        yield of_field("cluster", "slots", what, "use fewer slots")
    if job.precision == "fp16" and cluster.gpu is None:
        yield of_field("job", "precision", "fp16 needs a GPU", "use bf16 or fp32 on a CPU")
    if cluster.card and job.precision == "bf16" and cluster.card.capability < (8, 0):
        yield Problem(
            f"{cluster.gpu_name} has no bf16 (compute capability 8.0 and up)",
            "use precision: fp16",
            about=("job", "precision"),
        )
    if workloads.is_script(job.workload):
        return
    named = f"workload {job.workload!r}"
    if reason := workloads.refusal(
        job.workload, job.args, job.model, hosts=job.nodes.max, slots=cluster.slots
    ):
        yield Problem(f"{named}: {reason}", about=("job", "args"))
    if job.model is None and "model" in workloads.required(job.workload):
        yield Problem(f"{named} needs a model", "add `model:` to the job", about=("job", "model"))


def clashes(
    job: Job, cluster: Cluster, estimate: fit.Estimate | None, config: dict[str, Any]
) -> Iterator[Problem]:
    """What of the job does not go together with its model, its hosts or DeepSpeed."""
    if estimate and (problem := fit.sequence_problem(job, estimate)):
        yield problem
    yield from fit.sequence_parallel_problems(job, cluster, estimate)
    yield from background.problems(job, config)
    yield from _uncompiled(job, config)
    trained = estimate.trained if estimate else None
    hosts = view.Hosts(
        gpu=cluster.gpu_name,
        capability=cluster.card.capability if cluster.card else (0, 0),
        slots=cluster.slots,
        local=mounts.local(cluster),
        part=estimate.part if estimate else None,
        own=states.shard(trained, estimate.machine.world) if estimate and trained is not None else None,
        world=job.nodes.max * cluster.slots,
    )
    named = job.precision != "auto"
    precision = fit.precision(job, cluster)
    yield from rules.problems(config, hosts, job.workload, precision=precision, named=named)


def _uncompiled(job: Job, config: dict[str, Any]) -> Iterator[Problem]:
    """Ways to compile that DeepSpeed takes up when the program calls engine.compile(), and until then leaves alone."""
    if workloads.is_script(job.workload) or job.args.get("compile"):
        return
    able = workloads.takes(job.workload, "compile")
    for key in ("deepcompile", "autoep_non_moe"):
        if config.get("compile", {}).get(key):
            hint = "add args.compile: inductor, or leave it out" if able else "leave it out"
            what = f"deepspeed.compile.{key} does nothing in a job that does not compile"
            yield Problem(what, hint, about=("job", "deepspeed", "compile", key))

"""The two questions that turn a plan round: the largest model for a cluster, and the fewest hosts for a job.

Owns the search over models and hosts; whether one fits is fit.py's.

    capacity.largest(job, cluster, "llama") -> Largest     of the named models of a family
    capacity.fewest(job, cluster) -> Fewest                hosts
"""

from __future__ import annotations

import bisect
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from launcher import workloads
from launcher.deepspeed import config
from launcher.errors import PlanError, Problem, SpecError, did_you_mean
from launcher.files.job import Nodes
from launcher.planning import elastic, fit, splitting
from launcher.sizing import changes, ladder, models

if TYPE_CHECKING:
    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.planning.fit import Estimate
    from launcher.sizing.architecture import Architecture


class Largest(NamedTuple):
    """The largest named model of `family` that fits, with its `estimate`.

    `too_large`: why each larger one does not fit, smallest first. `layers`: how many layers of its width would fit.
    """

    family: str
    estimate: Estimate
    too_large: tuple[tuple[Architecture, str], ...]
    layers: int

    @property
    def stretched(self) -> Architecture:
        """The model with that many layers."""
        return self.estimate.model.with_layers(self.layers)


class Fewest(NamedTuple):
    """The fewest hosts on which the job fits. `fewer`: the next smaller number, and why it does not."""

    estimate: Estimate
    batch: config.BatchSizes
    fewer: tuple[int, str] | None


def families() -> dict[str, list[str]]:
    """Family → its named models: all that share the start of a name, such as llama, llama-3, gpt and gpt2."""
    members: dict[str, list[str]] = {}
    for name in models.named():
        words = name.split("-")
        for stem in {"-".join(words[:n]) for n in range(1, max(2, len(words)))}:
            members.setdefault(stem, []).append(name)
    return members


def largest(job: Job, cluster: Cluster, family: str) -> Largest:
    """The largest model of `family` that fits the job's other settings on the cluster.

    Raises SpecError for an unknown family, and PlanError when not even the smallest fits.
    """
    known = families()
    if family not in known:
        raise SpecError(f"--max-model {family!r} is not a family of models", hint=did_you_mean(family, known))
    _require_figures(job, cluster)
    job = elastic.at_most(job, cluster)
    too_large: list[tuple[Architecture, str]] = []
    counted = [m for m in map(models.load, known[family]) if not isinstance(m, models.Unknown)]
    for model in sorted(counted, key=lambda m: m.parameters, reverse=True):
        estimate = fit.estimate(model, job, cluster)
        reason = _reason(job, estimate)
        if not reason:
            return Largest(family, estimate, tuple(reversed(too_large)), _layers(job, cluster, estimate))
        too_large.append((model, reason))
    problem = fit.sequence_problem(job, estimate)
    hint = problem.hint if problem else "use more hosts, or a smaller micro batch"
    what = f"not even {model.name}, the smallest of {family}, fits: {reason}"
    raise PlanError(Problem(what, hint, about=problem.about if problem else ("job", "nodes")))


def fewest(job: Job, cluster: Cluster, hub: models.Found | None = None) -> Fewest:
    """The fewest hosts on which the job fits and among which its step divides. `hub`: what is known of a hub's model.

    Raises PlanError when the cluster has too few, and for a model that is not counted here.
    """
    _require_figures(job, cluster)
    estimate_on = functools.cache(
        lambda hosts: _estimate_on(replace(job, nodes=Nodes(max=hosts)), cluster, hub)
    )
    hosts = _candidates(job, cluster)

    def fits(number: int) -> bool:
        return not _reason(job, estimate_on(number))

    # More hosts never need more memory each, but the second of hosts with one slot does: a single rank gathers nothing.
    index = 0 if fits(hosts[0]) else bisect.bisect_left(hosts, True, lo=1, key=fits)
    if index == len(hosts):
        number = "1 host" if hosts[-1] == 1 else f"{hosts[-1]} hosts"
        what = f"it does not even fit on {number}: {_reason(job, estimate_on(hosts[-1]))}"
        raise PlanError(Problem(what, "use a smaller micro batch, or larger hosts", about=("job", "model")))
    below = hosts[index - 1] if index else None
    fewer = (below, _reason(job, estimate_on(below))) if below else None
    chosen = replace(job, nodes=Nodes(max=hosts[index]))
    return Fewest(estimate_on(hosts[index]), fit.batch(chosen, cluster), fewer)


def _candidates(job: Job, cluster: Cluster) -> list[int]:
    """Numbers of hosts that the cluster has and among whose ranks the step divides."""
    # `nodes:` of a job goes no further
    most = min(cluster.hosts or changes.MOST_HOSTS, changes.MOST_HOSTS)
    one_pass = job.batch.micro * cluster.slots
    if job.batch.global_ is None:
        return list(range(1, most + 1))
    train = job.batch.global_ * fit.sequence_parallel_degree(job)
    dividing = [n for n in range(1, min(most, train // one_pass) + 1) if train % (one_pass * n) == 0]
    if not dividing:
        config.batch(job.batch.micro, job.batch.accumulation, train, cluster.slots)  # says what would
    return dividing


def _estimate_on(job: Job, cluster: Cluster, hub: models.Found | None) -> Estimate:
    estimate, reason = fit.estimate_or_reason(job, cluster, hub)
    if estimate is None:
        raise PlanError(Problem(reason, about=("job", "model")))
    return estimate


def _layers(job: Job, cluster: Cluster, estimate: Estimate) -> int:
    """The most layers of the model's width that fit."""
    model = estimate.model
    return ladder.largest(
        lambda layers: fit.estimate(model.with_layers(layers), job, cluster).fits, model.layers
    )


def _require_figures(job: Job, cluster: Cluster) -> None:
    """Raise PlanError where the memory that is needed or that is available is not known."""
    own = workloads.is_script(job.workload)
    if own and job.model is None:
        what = "the memory of a program of one's own is estimated where the job names its model"
        raise PlanError(
            Problem(what, "add model: NAME, or a folder with its config.json", about=("job", "workload"))
        )
    if not (own or workloads.traits(job.workload).estimated):
        what = f"the memory of workload {job.workload!r} is not estimated"
        hint = f"it is of {', '.join(workloads.estimated())}"
        raise PlanError(Problem(what, hint, about=("job", "workload")))
    if reason := splitting.reason(job):
        raise PlanError(Problem(reason, about=("job", "deepspeed")))
    if cluster.gpu is None and cluster.memory is None:
        what = "the cluster file does not say how much memory its hosts have"
        raise PlanError(Problem(what, "add memory: 512GB to it", about=("cluster", "memory")))


def _reason(job: Job, estimate: Estimate) -> str:
    """Why the model does not fit; empty when it does."""
    problem = fit.sequence_problem(job, estimate)
    return problem.message if problem else "; ".join(estimate.evaluation.shortfalls)

"""The two questions that turn a plan round: the largest model for a cluster, and the fewest hosts for a job.

Owns the search over models and hosts; whether one fits is fit.py's.

    limits.largest(job, cluster, "llama") -> Largest     of the named models of a family
    limits.fewest(job, cluster) -> Fewest                hosts
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from launcher import workloads
from launcher.deepspeed import config
from launcher.errors import PlanError, Problem, SpecError, did_you_mean
from launcher.planning import fit
from launcher.sizing import ladder, models

if TYPE_CHECKING:
    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.planning.fit import Fit
    from launcher.sizing.architecture import Architecture

_MOST = 4096  # hosts


class Largest(NamedTuple):
    """The largest named model of `family` that fits, as `fit`.

    `over`: why each larger one does not, smallest first. `layers`: how many layers of its width would fit.
    """

    family: str
    fit: Fit
    over: tuple[tuple[Architecture, str], ...]
    layers: int

    @property
    def stretched(self) -> Architecture:
        """The model with that many layers."""
        return replace(self.fit.model, layers=self.layers)


class Fewest(NamedTuple):
    """The fewest hosts on which the job fits, as `fit`. `fewer`: the next smaller number, and why it does not."""

    fit: Fit
    batch: config.Batch
    fewer: tuple[int, str] | None


def families() -> dict[str, list[str]]:
    """Family → its named models: all that share the start of a name, such as llama, llama-3, gpt and gpt2."""
    found: dict[str, list[str]] = {}
    for name in models.named():
        words = name.split("-")
        for stem in {"-".join(words[:n]) for n in range(1, max(2, len(words)))}:
            found.setdefault(stem, []).append(name)
    return found


def largest(job: Job, cluster: Cluster, family: str) -> Largest:
    """The largest model of `family` that fits the job's other settings on the cluster.

    Raises SpecError for an unknown family, and PlanError when not even the smallest fits.
    """
    known = families()
    if family not in known:
        raise SpecError(f"--max-model {family!r} is no family of models", hint=did_you_mean(family, known))
    _known(job, cluster)
    numbers = _batch(job, cluster)
    over: list[tuple[Architecture, str]] = []
    weighed = [
        fit.of(model, job, cluster, numbers, fit.precision(job, cluster))
        for model in map(models.load, known[family])
        if not isinstance(model, models.Unknown)
    ]
    for one in sorted(weighed, key=lambda f: f.model.parameters, reverse=True):
        reason = _reason(job, one)
        if not reason:
            return Largest(family, one, tuple(reversed(over)), _layers(job, cluster, numbers, one))
        over.append((one.model, reason))
    smallest, reason = over[-1]
    short = fit.too_long(job, one)
    hint = short.hint if short else "use more hosts, or a smaller micro batch"
    what = f"not even {smallest.name}, the smallest of {family}, fits: {reason}"
    raise PlanError(Problem(what, hint, about=short.about if short else ("job", "nodes")))


def fewest(job: Job, cluster: Cluster) -> Fewest:
    """The fewest hosts on which the job fits and among which its step divides.

    Raises PlanError when the cluster has too few, and for a model that is not counted here.
    """
    _known(job, cluster)
    hosts = _candidates(job, cluster)
    tried = {hosts[-1]: _on(job, cluster, hosts[-1])}
    if _reason(job, tried[hosts[-1]]):
        number = "1 host" if hosts[-1] == 1 else f"{hosts[-1]} hosts"
        what = f"it does not even fit on {number}: {_reason(job, tried[hosts[-1]])}"
        raise PlanError(Problem(what, "use a smaller micro batch, or larger hosts", about=("job", "model")))
    low, high = -1, len(hosts) - 1  # more hosts never need more memory each
    while high - low > 1:
        middle = (low + high) // 2
        tried[hosts[middle]] = _on(job, cluster, hosts[middle])
        low, high = (middle, high) if _reason(job, tried[hosts[middle]]) else (low, middle)
    fewer = (hosts[low], _reason(job, tried[hosts[low]])) if low >= 0 else None
    return Fewest(tried[hosts[high]], _batch(_with(job, hosts[high]), cluster), fewer)


def _candidates(job: Job, cluster: Cluster) -> list[int]:
    """Numbers of hosts that the cluster has and among whose ranks the step divides."""
    most, one_pass = cluster.hosts or _MOST, job.batch.micro * cluster.slots
    if job.batch.global_ is None:
        return list(range(1, most + 1))
    train = job.batch.global_ * fit.sharing(job)
    found = [n for n in range(1, min(most, train // one_pass) + 1) if train % (one_pass * n) == 0]
    if not found:
        config.batch(job.batch.micro, job.batch.accumulation, train, cluster.slots)  # says what would
    return found


def _on(job: Job, cluster: Cluster, hosts: int) -> Fit:
    asked = _with(job, hosts)
    one, unknown = fit.weigh(asked, cluster, _batch(asked, cluster), fit.precision(job, cluster))
    if one is None:
        raise PlanError(Problem(unknown, about=("job", "model")))
    return one


def _with(job: Job, hosts: int) -> Job:
    return job.model_copy(update={"nodes": hosts})


def _layers(job: Job, cluster: Cluster, numbers: config.Batch, one: Fit) -> int:
    """The most layers of the model's width that fit."""

    def fits(layers: int) -> bool:
        model = replace(one.model, layers=layers)
        return fit.of(model, job, cluster, numbers, fit.precision(job, cluster)).fits

    return ladder.last(fits, one.model.layers)


def _batch(job: Job, cluster: Cluster) -> config.Batch:
    batch = job.batch
    return config.batch(batch.micro, batch.accumulation, batch.global_, fit.readers(job, cluster))


def _known(job: Job, cluster: Cluster) -> None:
    """Raises PlanError where the memory that is needed or that is there cannot be told."""
    if job.workload not in workloads.TRAINING:
        what = f"the memory of workload {job.workload!r} is not estimated"
        raise PlanError(Problem(what, f"it is of {', '.join(workloads.TRAINING)}", about=("job", "workload")))
    if cluster.gpu is None and cluster.memory is None:
        what = "the cluster file does not say how much memory its hosts have"
        raise PlanError(Problem(what, "add memory: 512GB to it", about=("cluster", "memory")))


def _reason(job: Job, one: Fit) -> str:
    """Why the model does not fit; empty when it does."""
    short = fit.too_long(job, one)
    return short.message if short else "; ".join(one.weighed.reasons)

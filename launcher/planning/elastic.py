"""The numbers of hosts that a job of `nodes: {min, max}` may train on: the same batch and data on each of them.

Owns which numbers these are, and why the others between min and max are not; a fixed number is planned by plan.py. How
a job gets along with fewer hosts or more is templates/slurm/spares.sh.j2's.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.errors import LauncherError, PlanError, Problem
from launcher.files.job import Batch, Nodes
from launcher.namedtuple import NamedTuple
from launcher.planning import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.deepspeed.config import BatchSizes
    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.planning.plan import Plan

_ABOUT = ("job", "nodes")
_MOST = 4096  # hosts, as of a job
_NAMED = 12  # numbers that a hint names
_PLANNED = 256  # numbers: each has its configuration in the script, of which Slurm takes 4 MiB


class Size(NamedTuple):
    """What is different on so many hosts."""

    nodes: int
    batch: BatchSizes
    config: dict[str, Any]
    estimate: fit.Estimate | None = None  # None where memory is not estimated


class LeftOut(NamedTuple):
    """Numbers of hosts between min and max that the job does not train on, and why."""

    nodes: tuple[int, ...]
    why: str

    def __str__(self) -> str:
        return f"{spans(self.nodes)} {'host' if self.nodes == (1,) else 'hosts'}: {self.why}"


def dividing(job: Job, cluster: Cluster) -> tuple[int, ...]:
    """The job's numbers of hosts, ascending, among whose ranks a step divides; none that the cluster has not."""
    return tuple(n for n in range(job.nodes.fewest, _most(job, cluster) + 1) if _divides(job, cluster, n))


def _most(job: Job, cluster: Cluster) -> int:
    """The most hosts; a cluster without even the fewest is refused where these are planned."""
    return max(job.nodes.fewest, min(job.nodes.max, cluster.hosts or job.nodes.max))


def _divides(job: Job, cluster: Cluster, nodes: int) -> bool:
    groups, left = divmod(nodes * cluster.slots, fit.ranks_together(job))
    asked = job.batch
    return not left and (asked.global_ is None or asked.global_ % (asked.micro * groups) == 0)


def at_most(job: Job, cluster: Cluster) -> Job:
    """The job on one number of hosts: the most of those that it may have."""
    numbers = dividing(job, cluster) if job.nodes.vary else ()
    return dataclasses.replace(job, nodes=Nodes(max=numbers[-1])) if numbers else job


def plan(job: Job, cluster: Cluster, plan_of: Callable[[Job], Plan]) -> Plan:
    """The plan on the most hosts, with the `sizes` of all numbers. `plan_of` is given the job on each of them.

    What `deepspeed: auto` is holds for all: it is what fits with the fewest. A number with which the job cannot be, or
    does not fit, is left out; where that is every one, the plan does not fit. Raises what `plan_of` raises for every
    number, and PlanError for a job whose number of hosts cannot change.
    """
    if wrong := list(problems(job, cluster)):
        raise PlanError(*wrong, *_others(job, cluster, plan_of))
    made, small, misfit, refusal = list["Plan"](), list[LeftOut](), None, None
    for number in dividing(job, cluster):
        try:
            decided = plan_of(_on(job, number, made))
        except PlanError as error:
            small.append(LeftOut((number,), "; ".join(problem.message for problem in error.problems)))
            refusal = error
            continue
        if decided.estimate and not decided.estimate.fits:
            small.append(LeftOut((number,), "; ".join(decided.estimate.evaluation.shortfalls)))
            misfit = decided
        else:
            made.append(decided)
    if not made and misfit:  # of which a refusal says why
        made, small = [misfit], []
    if not made and refusal:
        raise refusal
    most, left_out = made[-1], [*_undivided(job, cluster), *small]
    return most._replace(
        sizes=tuple(Size(p.nodes, p.batch, p.config, p.estimate) for p in made),
        left_out=tuple(left_out),
        notes=(*most.notes, *(f"nodes: not on {entry}" for entry in left_out)),
    )


def _others(job: Job, cluster: Cluster, plan_of: Callable[[Job], Plan]) -> Sequence[Problem]:
    """What is wrong with the job whatever its batch and spares are."""
    number = (dividing(job, cluster) or (_most(job, cluster),))[-1]
    alone = dataclasses.replace(job, nodes=Nodes(max=number), batch=Batch(micro=job.batch.micro), spares=0)
    try:
        plan_of(alone)
    except LauncherError as error:
        return error.problems
    return ()


def _on(job: Job, number: int, made: Sequence[Plan]) -> Job:
    """The job on so many hosts, configured as on the fewest, where these are planned already."""
    job = dataclasses.replace(job, nodes=Nodes(max=number))
    if not made:
        return job
    deepspeed = dataclasses.replace(job.deepspeed, preset=made[0].preset)
    return dataclasses.replace(job, deepspeed=deepspeed, args=made[0].args)


def _undivided(job: Job, cluster: Cluster) -> Iterator[LeftOut]:
    numbers, most = dividing(job, cluster), _most(job, cluster)
    if others := tuple(n for n in range(job.nodes.fewest, most + 1) if n not in numbers):
        yield LeftOut(others, "a step does not divide among their ranks")
    if more := tuple(range(most + 1, job.nodes.max + 1)):
        yield LeftOut(more, f"the cluster has {cluster.hosts}")


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers in words: 1, 3 to 5."""

    def longer(parts: list[tuple[int, int]], number: int) -> list[tuple[int, int]]:
        if parts and parts[-1][1] == number - 1:
            return [*parts[:-1], (parts[-1][0], number)]
        return [*parts, (number, number)]

    parts = functools.reduce(longer, numbers, list[tuple[int, int]]())
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in parts)


def problems(job: Job, cluster: Cluster) -> Iterator[Problem]:
    """Why the job cannot have one number of hosts now and another one later."""
    if job.spares:
        what = "spares: a job of nodes: {min, max} goes on with the hosts that are left"
        yield Problem(what, f"leave spares out, or use nodes: {job.nodes.max}", about=("job", "spares"))
    yield from _moves(job)
    yield from _batch(job, cluster)


def warnings(job: Job) -> Iterator[Problem]:
    """A range of numbers of which the job keeps the first that it gets."""
    if job.nodes.vary and not job.restarts:
        what = "nodes: a job that loses a host does not go on with fewer, because restarts is 0"
        yield Problem(what, "each change is one of the job's restarts", about=_ABOUT)


def _moves(job: Job) -> Iterator[Problem]:
    """Programs that do not go on with another number of ranks."""
    fixed = f"use nodes: {job.nodes.max}"
    if workloads.is_script(job.workload):
        if not job.checkpoint.any_ranks:
            what = "nodes: nothing says that your program goes on from its checkpoints with another number of ranks"
            yield Problem(
                what, f"if it does, add checkpoint: {{any_ranks: true}}; else {fixed}", about=_ABOUT
            )
        return
    if not workloads.traits(job.workload).converts:
        able = ", ".join(name for name in workloads.names() if workloads.traits(name).converts)
        what = f"nodes: workload {job.workload!r} does not go on from a checkpoint of another number of ranks"
        yield Problem(what, f"{fixed}; these do: {able}", about=_ABOUT)
    elif not workloads.converts(job.workload, job.args):
        what = (
            "nodes: 4-bit weights (args.lora-4bit) do not go on from a checkpoint of another number of ranks"
        )
        yield Problem(what, fixed, about=_ABOUT)


def _batch(job: Job, cluster: Cluster) -> Iterator[Problem]:
    """A batch that is not the same with every number of hosts. What a program of one's own makes of it is its own."""
    asked, own = job.batch, workloads.is_script(job.workload)
    if asked.global_ is None:
        train = asked.micro * (asked.accumulation or 1) * fit.data_parallel_size(job, cluster)
        what = "nodes: the batch of a step is the same with any number of hosts, and batch.global does not say it"
        hint = f"use batch: {{micro: {asked.micro}, global: {train}}}"
        yield from () if own else [Problem(what, hint, about=_ABOUT)]
    elif asked.accumulation is not None:
        what = "batch.accumulation follows from batch.global and the number of hosts, which varies"
        yield Problem(what, "leave it out", about=("job", "batch", "accumulation"))
    elif not dividing(job, cluster):
        between = f"from {job.nodes.fewest} to {_most(job, cluster)}"
        each = f"micro {asked.micro} × {cluster.slots} slots a host"
        what = f"nodes: batch.global {asked.global_} divides among no number of hosts {between} ({each})"
        yield Problem(what, _numbers_or_batch(job, cluster, asked.global_), about=_ABOUT)
    if (number := len(dividing(job, cluster))) > _PLANNED:
        what = f"nodes: {number} numbers of hosts are possible; at most {_PLANNED} can be planned for one job"
        yield Problem(
            what, "give a min that is nearer to max, or a batch.global that fewer divide", about=_ABOUT
        )


def _numbers_or_batch(job: Job, cluster: Cluster, train: int) -> str:
    """The numbers of hosts that divide a batch of `train` samples, or batches that the fewest hosts divide."""
    if able := [n for n in range(1, _MOST + 1) if _divides(job, cluster, n)]:
        more = ", …" if len(able) > _NAMED else ""
        return f"these numbers divide it: {', '.join(map(str, able[:_NAMED]))}{more}"
    groups = max(1, job.nodes.fewest * cluster.slots // fit.ranks_together(job))
    below, above = (job.batch.micro * groups * (train // (job.batch.micro * groups) + n) for n in (0, 1))
    return f"no number does: use batch.global {f'{below} or {above}' if below else above}"

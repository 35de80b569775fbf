"""Hosts that a job holds beside those with ranks: what they cost, and where they make no sense.

Owns both; how one takes the place of a lost host is templates/slurm/spares.sh.j2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import units
from launcher.errors import PlanError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.planning.plan import Plan

_ABOUT = ("job", "spares")


def problems(job: Job, cluster: Cluster) -> Iterator[Problem]:
    """More hosts than there are, or more that idle than that work."""
    if job.spares > job.nodes.max:
        what = f"spares: {job.spares} hosts would be idle beside {job.nodes.max} that work"
        yield Problem(what, f"use spares: {job.nodes.max} or fewer", about=_ABOUT)
    elif job.spares and cluster.hosts and job.nodes.max <= cluster.hosts < job.nodes.max + job.spares:
        most = cluster.hosts - job.nodes.max
        what = f"the job needs {job.nodes.max + job.spares} hosts with its spares, the cluster has {cluster.hosts}"
        yield Problem(what, f"use spares: {most}" if most else "leave spares out", about=_ABOUT)


def warnings(job: Job) -> Iterator[Problem]:
    """A spare that can take nobody's place."""
    if job.spares and not job.restarts:
        what = "spares: no host is replaced while it trains, because restarts is 0"
        yield Problem(what, "each replacement is one of the job's restarts", about=_ABOUT)


def require_none(plan: Plan, why: str, instead: str) -> None:
    """Raises PlanError where the job has spares, which cannot be for the reason `why`."""
    if plan.spares:
        raise PlanError(Problem(f"spares: {why}", instead, about=_ABOUT))


def cost(plan: Plan) -> str:
    """What the spares cost, in words."""
    idle, every = plan.spares * plan.slots, plan.allocated * plan.slots
    what = "GPU" if plan.gpu else "slot"
    hours = idle * plan.job.walltime / 3600
    return (
        f"{plan.spares} of {plan.allocated} hosts idle: {idle} of {every} {what}s, "
        f"{hours:,.4g} {what} hours in a walltime of {units.brief(plan.job.walltime)}"
    )

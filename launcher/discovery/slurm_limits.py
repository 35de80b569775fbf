"""What a QOS and an account's association leave of their limits, against what a job asks for.

Slurm takes a job beyond them, unless the QOS has DenyOnLimit, and it then waits, for ever or until others have ended:
https://slurm.schedmd.com/resource_limits.html. slurmctld tells both with what is used of each,
https://slurm.schedmd.com/scontrol.html#OPT_assoc_mgr; where it does not, nothing is said of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher import units
from launcher.discovery import slurm
from launcher.discovery.asking import ask
from launcher.errors import Problem
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.discovery.facts import Partition
    from launcher.planning.plan import Plan


class Limits(NamedTuple):
    """Of a QOS or an association: of one job, and of all together with what is used (limit, used). Wall in minutes."""

    title: str
    wall: int | None
    job: dict[str, int]
    group: dict[str, tuple[int, int]]


def read(text: str) -> list[Limits]:
    """The records of `scontrol --oneliner show assoc_mgr`, of QOS or of associations."""
    found = []
    for line in text.splitlines():
        if named := re.match(r"QOS=([^(\s]+)", line):
            title = f"QOS {named[1]}"
        elif named := re.match(r"ClusterName=\S* Account=(\S+) UserName=([^(\s]*)", line):
            title = f"account {named[1]}" + (f" of user {named[2]}" if named[2] else "")
        else:
            continue
        wall = re.search(r" MaxWallPJ=([1-9][0-9]*)", line)
        jobs = re.search(r" GrpJobs=([0-9]+)\(([0-9]+)\)", line)
        group = {name: (int(limit), int(used)) for name, limit, used in _tres(line, "GrpTRES", True)}
        group |= {"jobs": (int(jobs[1]), int(jobs[2]))} if jobs else {}
        job = {name: int(limit) for name, limit, _ in _tres(line, "MaxTRESPJ", False)}
        found.append(Limits(title, int(wall[1]) if wall else None, job, group))
    return found


def _tres(line: str, field: str, used: bool) -> list[tuple[str, str, str]]:
    """(resource, limit, what is used of it) of a field such as `GrpTRES=cpu=N(0),node=4(2)`; N is no limit."""
    told = re.search(rf" {field}=(\S*)", line)
    pattern = r"([a-z/]+(?::[^=,]+)?)=([0-9]+)" + (r"\(([0-9]+)\)" if used else r"()")
    return re.findall(pattern, told[1]) if told else []


def beyond(plan: Plan, partition: Partition | None) -> Iterator[Problem]:
    """What of the job is beyond the limits of its QOS, its partition's, and its account's association."""
    own = plan.cluster.slurm
    names = [own.qos, partition.qos if partition else None]
    shown = ["scontrol", "--oneliner", "show", "assoc_mgr"]
    found = [
        limits
        for name in dict.fromkeys(filter(None, names))
        for limits in read(ask([*shown, "flags=qos", f"qos={name}"]).text)
    ]
    if own.account:
        whose = [f"accounts={own.account}", f"users={slurm.user()}"]
        found += read(ask([*shown, "flags=assoc", *whose]).text)
    for limits in found:
        yield from _of(plan, limits)


def _of(plan: Plan, limits: Limits) -> Iterator[Problem]:
    nodes, walltime = ("job", "nodes"), plan.job.walltime
    if limits.wall is not None and walltime > limits.wall * 60:
        most = units.clock(limits.wall * 60)
        what = f"walltime {units.clock(walltime)} is more than the {most} of {limits.title}"
        yield Problem(what, "shorten it: a checkpoint resumes", about=("job", "walltime"))
    # of `nodes: {min, max}` what it does not start without: Slurm gives such a job as many as its limits leave
    asked = {"node": plan.fewest, "jobs": 1}
    asked |= {"gres/gpu": plan.fewest * plan.slots} if plan.gpu else {}
    for name, wanted in asked.items():
        if (most_of_one := limits.job.get(name)) is not None and wanted > most_of_one:
            what = f"{limits.title}: a job may have {name} {most_of_one}, and this one asks for {wanted}"
            yield Problem(what, "use fewer, or another QOS or account", about=nodes)
        limit, used = limits.group.get(name, (wanted, 0))
        if wanted > limit:
            what = f"{limits.title}: {name} {limit} is all that its jobs may have, and this one asks for {wanted}"
            yield Problem(what, "use fewer, or another QOS or account", about=nodes)
        elif wanted > limit - used:
            what = f"{limits.title}: {name} {used} of {limit} are used, and the job asks for {wanted}"
            yield Problem(what, "it would wait for others to end; `squeue` shows them", about=nodes)

"""Where else checkpoints are kept: on hosts' own disks and at a mirror, and the jobs and hosts that cannot have either.

Owns the words of the refusals; how they are kept is the workloads' (docker/workloads/tiers.py).
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

from launcher import entry, workloads
from launcher.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from launcher.files.job import Job
    from launcher.planning.plan import Plan

MIRROR = ("job", "checkpoint", "mirror")


def own_disk(plan: Plan) -> dict[str, Any]:
    """The workload's options for checkpoints on hosts' own disks; none where a job has none."""
    local = plan.job.checkpoint.local
    if local is None:
        return {}
    return {
        "checkpoint-local": plan.cluster.scratch,
        "checkpoint-local-every": local.every,
        "checkpoint-local-keep": local.keep,
    }


def mirror(plan: Plan) -> dict[str, Any]:
    """The workload's options for a mirror; none where a job has none."""
    address, here = plan.job.checkpoint.mirror, plan.workspace
    if address is None:
        return {}
    return {"checkpoint-mirror": address, "checkpoint-owner": ", ".join(filter(None, (here.user, here.runs)))}


def problems(job: Job) -> Iterator[Problem]:
    """Workloads that do not keep checkpoints elsewhere, and intervals that make no sense."""
    kept, name = job.checkpoint, job.workload
    whose = "a program of your own saves its own checkpoints"
    for field in ("mirror", "local"):
        option, about = f"checkpoint-{field}", ("job", "checkpoint", field)
        if getattr(kept, field) is None:
            continue
        if workloads.is_script(name):
            hint = "leave it out, and copy them in the program"
            yield Problem(f"checkpoint.{field}: {whose}, which the launcher does not know", hint, about=about)
        elif option not in workloads.options(name):
            able = [n for n in workloads.names() if option in workloads.options(n)]
            what = f"checkpoint.{field}: workload {name!r} does not keep checkpoints there"
            yield Problem(what, f"leave it out; these do: {', '.join(able)}", about=about)
    if kept.local and kept.local.every >= kept.every:
        what = f"checkpoint.local: every {kept.local.every} steps is not more often than checkpoint.every: {kept.every}"
        yield Problem(
            what, "use a smaller `every`, or leave `local` out", about=("job", "checkpoint", "local")
        )


def unsaved(job: Job, config: Mapping[str, Any]) -> Iterator[Problem]:
    """What DeepSpeed's configuration has that is not kept there."""
    if job.checkpoint.local is None and job.checkpoint.mirror is None:
        return
    for field, what in entry.module("workloads.keeping").unsaved(config).items():
        if getattr(job.checkpoint, field) is not None:
            about = ("job", "checkpoint", field)
            yield Problem(f"checkpoint.{field}: {what} are not kept there", "leave it out", about=about)


def unmounted(plan: Plan, inside: Iterable[str]) -> Iterator[Problem]:
    """A file:// mirror that ranks in a container would write into the container. `inside`: folders that are mounted."""
    named = folder(plan)
    if named is None or any(f"{named}/".startswith(f"{posixpath.normpath(path)}/") for path in inside):
        return
    what = (
        f"checkpoint.mirror: {named} is not mounted where ranks run, and would be lost with their container"
    )
    yield Problem(what, "add it to `mounts:` of the cluster file", about=MIRROR)


def folder(plan: Plan) -> str | None:
    """The folder of a file:// mirror; None where there is none."""
    address = plan.job.checkpoint.mirror
    named: str | None = entry.module("workloads.keeping").folder(address) if address else None
    return named and posixpath.normpath(named)

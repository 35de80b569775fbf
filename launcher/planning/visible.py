"""What a job names on this machine that its ranks, in a container or pod, would not see.

Owns where they see this machine's files: below the cluster's mounts, and with a container of a host in the run folders.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.deepspeed import config
from launcher.errors import Problem
from launcher.files import paths
from launcher.images import origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

# These see nothing else. A site's own configuration of enroot, Apptainer and the like may bind more of a host.
SEALED = ("docker", "podman", "kubernetes")


def problems(plan: Plan, scheduler: str) -> Iterator[Problem]:
    """Paths of workloads of ours that are here and not there.

    What else somebody's own image holds is not known: of those it is what lies below this user's folders.
    """
    if workloads.is_script(plan.job.workload):
        return
    seen, own = list(_seen(plan, scheduler)), list(_own(plan))
    ours = origin.is_ours(plan.image) or plan.image_facts is not None
    for about, path in paths.named(plan.job):
        if (
            not path.startswith("/")
            or not paths.is_here(Path(path))
            or any(config.below(path, folder) for folder in seen)
        ):
            continue
        if ours or any(Path(path).is_relative_to(folder) for folder in own):
            name = ".".join(str(key) for key in about[1:])
            what = f"{name}: {path!r} is here, and the ranks' container does not have it"
            yield Problem(what, _hint(plan, path), about=about)


def _seen(plan: Plan, scheduler: str) -> Iterator[str]:
    """Folders as ranks see them."""
    yield from (mount.inside for mount in plan.mounts)
    if scheduler == "kubernetes":
        yield from ("/runs", *_mount_paths(plan.cluster.kubernetes.pod_patch))
    else:
        yield from (plan.workspace.runs, plan.cluster.scratch)


def _mount_paths(patch: Any) -> Iterator[str]:
    """What a patch of the pods mounts besides."""
    if isinstance(patch, dict):
        if isinstance(path := patch.get("mountPath"), str):
            yield path
        patch = list(patch.values())
    for entry in patch if isinstance(patch, list) else ():
        yield from _mount_paths(entry)


def _own(plan: Plan) -> Iterator[Path]:
    """Folders that no image has at the same place."""
    place = plan.places["job"].get(())
    known = [Path.home, Path.cwd, *([Path(place.source).parent.absolute] if place else [])]
    for ask in known:
        # some have no home, and some are in a folder that is gone
        with contextlib.suppress(RuntimeError, OSError):
            if (folder := ask()) != Path("/"):
                yield folder


def _hint(plan: Plan, path: str) -> str:
    for mount in plan.mounts:
        if mount.host and config.below(path, mount.host):
            return f"ranks see it as {mount.inside}{path.removeprefix(mount.host.rstrip('/'))}"
    return "name a folder that `mounts:` of the cluster file brings there, or add one"

"""The cache of prepared texts that runs share: the cluster file's `data_cache`, as ranks find it.

Owns the variable DATA_CACHE and what of the host is mounted for it; what is in the folder is the workloads'
(docker/workloads/corpus.py), and `launcher data` shows it.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, NamedTuple

from launcher.errors import Problem
from launcher.fabrics.model import Variable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.cluster import Cluster, Mount

VARIABLE = "DATA_CACHE"
_ABOUT = ("cluster", "data_cache")


class Seat(NamedTuple):
    """The mount of the cluster file that the cache lies in: its path inside, and what it is."""

    inside: str
    mount: Mount


def variables(cluster: Cluster) -> list[Variable]:
    """DATA_CACHE with its reason; none where the cluster file names no cache."""
    if cluster.data_cache is None:
        return []
    return [Variable(VARIABLE, cluster.data_cache, "data_cache of the cluster file", "")]


def seat(cluster: Cluster) -> Seat | None:
    """The innermost mount above the cache; None where it lies in none."""
    path = cluster.data_cache or ""
    above = [Seat(inside, mount) for inside, mount in cluster.mounts.items() if _below(path, inside)]
    return max(above, key=lambda entry: len(posixpath.normpath(entry.inside)), default=None)


def own_mount(cluster: Cluster) -> str | None:
    """The host's folder to mount at the same path; None where a mount of the cluster file brings it."""
    return cluster.data_cache if cluster.data_cache and seat(cluster) is None else None


def on_host(cluster: Cluster) -> str | None:
    """The cache's folder as the host sees it; None where there is none, or where it is on a claim alone."""
    above = seat(cluster)
    if above is None or cluster.data_cache is None:
        return cluster.data_cache
    if above.mount.host is None:
        return None
    rest = posixpath.relpath(cluster.data_cache, above.inside)
    return posixpath.normpath(posixpath.join(above.mount.host, rest))


def problems(cluster: Cluster) -> Iterator[Problem]:
    """A cache that ranks could not write, or that would hide something of the image."""
    above = seat(cluster)
    if above and above.mount.readonly:
        what = f"data_cache {cluster.data_cache} lies in the mount {above.inside}, which is readonly"
        yield Problem(what, "name a folder that ranks may write, or mount it so", about=_ABOUT)
    if above and above.mount.local:
        what = f"data_cache {cluster.data_cache} lies in the mount {above.inside}, on each host's own disk"
        yield Problem(what, "name a folder that all hosts share", about=_ABOUT)
    if cluster.data_cache and posixpath.normpath(cluster.data_cache).lstrip("/") in ("", "."):
        yield Problem(
            f"data_cache {cluster.data_cache} is the root", "name a folder for it alone", about=_ABOUT
        )


def _below(path: str, folder: str) -> bool:
    path, folder = (posixpath.normpath(name).rstrip("/") + "/" for name in (path, folder))
    return path.startswith(folder)

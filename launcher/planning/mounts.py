"""Folders that ranks see: the cluster's mounts, NVMe disks that are offloaded to, the cache of prepared texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.deepspeed import config as deepspeed_config
from launcher.planning import data_cache

if TYPE_CHECKING:
    from launcher.files.cluster import Cluster


class MountPoint(NamedTuple):
    """A folder inside the container, and what it is on the host or which claim."""

    inside: str
    host: str | None
    claim: str | None
    readonly: bool
    local: bool


def local(cluster: Cluster) -> tuple[str, ...]:
    """The folders that ranks see on their host's own disk."""
    mounted = (inside for inside, mount in cluster.mounts.items() if mount.local)
    return (*([cluster.nvme.path] if cluster.nvme else []), *mounted, cluster.scratch)


def points(cluster: Cluster, config: dict[str, Any]) -> tuple[MountPoint, ...]:
    """The cluster's mounts, and its NVMe disks where something is offloaded to them."""
    written = [
        MountPoint(inside, host=m.host, claim=m.claim, readonly=m.readonly, local=m.local)
        for inside, m in cluster.mounts.items()
    ]
    zero = config["zero_optimization"]
    paths = [(zero.get(part) or {}).get("nvme_path") for part in ("offload_optimizer", "offload_param")]
    disk = cluster.nvme.path if cluster.nvme else ""
    if (
        disk
        and disk not in cluster.mounts
        and any(path and deepspeed_config.below(path, disk) for path in paths)
    ):
        written.append(MountPoint(disk, host=disk, claim=None, readonly=False, local=True))
    if cache := data_cache.own_mount(cluster):
        written.append(MountPoint(cache, host=cache, claim=None, readonly=False, local=False))
    return tuple(written)

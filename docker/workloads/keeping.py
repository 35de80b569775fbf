"""Where checkpoints can be kept beside the run's folder, as far as it is known before a run; standard library only.

Owns the addresses of mirrors, and what own disks do not hold; the launcher reads both before a job is submitted. How a
mirror is written to is mirror.py's, how own disks are own_disk.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

# scheme → the package that fsspec needs for it beside itself (https://filesystem-spec.readthedocs.io)
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "file": ""}
_KNOWN = "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER"


def problem(address: str) -> str:
    """What is wrong with an address, without what may be a password in it; '' where nothing is."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return f"is no address; write {_KNOWN}"
    if "@" in parts.netloc:
        return "holds credentials, which belong into `env:` as secrets; write the bucket alone"
    if not address.isprintable() or any(mark in address for mark in " ?#%*[]"):
        return "holds a character that names of buckets and folders here cannot have (blank ? # % * [ ])"
    if parts.scheme not in PACKAGES or not address.startswith(f"{parts.scheme}://"):
        return f"has no scheme that is known; write {_KNOWN}"
    if ".." in parts.path.split("/"):
        return "leads upwards (..); write the folder itself"
    if parts.scheme == "file":
        outside = parts.netloc or parts.path.strip("/") == ""
        return "is no folder of this host; write file:///FOLDER, with three slashes" if outside else ""
    return "" if parts.netloc else f"names no bucket; write {parts.scheme}://BUCKET/FOLDER"


def folder(address: str) -> str | None:
    """The folder that a file:// address names; None for another one."""
    parts = urlsplit(address)
    return parts.path.rstrip("/") if parts.scheme == "file" else None


def unsaved(config: Mapping[str, Any]) -> dict[str, str]:
    """What of a run with this DeepSpeed config is not kept in a place, by that: local (hosts' own disks) or mirror."""
    zero = config.get("zero_optimization") or {}
    offloads = [zero.get(part) or {} for part in ("offload_optimizer", "offload_param")]
    if any(offload.get("device") == "nvme" for offload in offloads):
        # DeepSpeed copies these beside the files that it writes, and complete.json does not list them
        return dict.fromkeys(("local", "mirror"), "states that are offloaded to NVMe")
    if (config.get("expert_parallel") or {}).get("enabled"):
        return {"local": "experts that ranks hold apart"}
    return {}

"""This machine, asked: GPUs, cores, memory, disks, container engines."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

from launcher.discovery.facts import Lack, Machine
from launcher.doctor import machine
from launcher.planning import cards

_ENGINES = ("docker", "podman")
_DISKS = ("/tmp", "/scratch", "/local", "/mnt", "/nvme", "/data")


def learn() -> Machine:
    """What this machine has."""
    found = Counter(cards.here())
    lacks = []
    if not found and shutil.which("nvidia-smi"):
        lacks.append(Lack("GPUs", "nvidia-smi shows none", "`nvidia-smi`, `launcher doctor`"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpus=cores,
        memory=_memory(),
        cpu_level=machine.cpu_level(machine.flags()),
        cards=tuple((card.written.removeprefix("gpu: "), card.model, count) for card, count in found.items()),
        disks=tuple((path, shutil.disk_usage(path).total) for path in _DISKS if _own(path)),
        containers=tuple(name for name in _ENGINES if shutil.which(name)),
        lacks=tuple(lacks),
    )


def _memory() -> int:
    """Bytes of RAM."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _own(path: str) -> bool:
    """Whether it is a folder that this user may write to, /tmp or a file system of its own."""
    return os.access(path, os.W_OK) and Path(path).is_dir() and (path == "/tmp" or os.path.ismount(path))

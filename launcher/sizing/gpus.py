"""What each GPU type has: memory, peak arithmetic, and how fast it reaches memory, its neighbours and its host.

Owns the reading of gpus.json, which says where each figure is from; what a job makes of them is traffic.py's and
ladder.py's.

    gpus.load("h100-80gb").memory -> bytes that torch.cuda reports as the device's total
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple


class Gpu(NamedTuple):
    """Bytes, floating point operations a second, and bytes a second."""

    name: str  # as nvidia-smi begins it
    memory: int
    flops: int  # dense, bf16 (fp16 where there is no bf16)
    bandwidth: int  # of its memory
    link: int  # to the other GPUs of its host, one direction: NVLink, or PCIe where there is none
    host: int  # to its host's memory, one direction
    capability: tuple[int, int]  # CUDA compute capability


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    text = Path(__file__).with_name("gpus.json").read_text(encoding="utf-8")
    figures: dict[str, dict[str, Any]] = json.loads(text)["gpus"]
    return figures


def names() -> tuple[str, ...]:
    """The GPU types that a cluster file can name."""
    return tuple(_table())


@functools.cache
def load(name: str) -> Gpu:
    """The figures of one of `names()`."""
    row = _table()[name]
    major, minor = row["capability"]
    return Gpu(
        name=row["name"],
        memory=int(row["memory_gib"] * 2**30),
        flops=row["tflops"] * 10**12,
        bandwidth=row["memory_gb_per_s"] * 10**9,
        link=row["link_gb_per_s"] * 10**9,
        host=row["host_gb_per_s"] * 10**9,
        capability=(major, minor),
    )

"""What one rank measures by itself: products of matrices, copies in memory and to the device, disks.

Owns how long is measured and how often. Every figure is a list with one value a round, in operations or bytes a second;
that ranks measure at the same time, as they train, is probe.py's.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

ROUND = 0.05  # seconds that a round takes at least, so that a clock's tick and a launch do not count
LONGEST = 1.0  # seconds; what takes longer once is not measured in a larger size
MIB = 2**20


def matrix(kind: str, size: int, rounds: int, device: torch.device) -> list[float]:
    """Operations a second of the product of two square matrices of type `kind`: 2 size^3 for each."""
    import torch

    one, other = (torch.randn(size, size, device=device).to(getattr(torch, kind)) for _ in range(2))
    result = torch.empty_like(one)
    return _rates(lambda: torch.mm(one, other, out=result), 2.0 * size**3, rounds)


def memory(rounds: int, device: torch.device) -> list[float]:
    """Bytes a second that the device's memory gives and takes together, in a copy within it."""
    import torch

    source = torch.zeros((256 if device.type == "cuda" else 16) * MIB, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _rates(lambda: target.copy_(source), 2.0 * source.nbytes, rounds)


def transfers(rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Bytes a second between the host's pinned memory and the device; nothing on a CPU."""
    import torch

    if device.type == "cpu":
        return {}
    far = torch.zeros(256 * MIB, dtype=torch.uint8, device=device)
    near = torch.zeros(256 * MIB, dtype=torch.uint8).pin_memory()
    return {
        "to_device": _rates(lambda: far.copy_(near, non_blocking=True), near.nbytes, rounds),
        "from_device": _rates(lambda: near.copy_(far, non_blocking=True), near.nbytes, rounds),
    }


def disk(folder: Path, size: int, rounds: int) -> dict[str, list[float]]:
    """Bytes a second that are written to and read from a file in `folder`, past the kernel's cache where it lets us.

    Raises OSError where the folder cannot be written, or is full. The file is gone afterwards.
    """
    block, written, read = os.urandom(MIB), list[float](), list[float]()
    for _ in range(rounds):
        with tempfile.TemporaryFile(dir=folder, prefix=".probe-", buffering=0) as file:
            began = time.perf_counter()
            for _ in range(size // MIB):
                file.write(block)
            os.fsync(file.fileno())
            written.append(size / (time.perf_counter() - began))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            began = time.perf_counter()
            while file.read(MIB):
                pass
            read.append(size / (time.perf_counter() - began))
    return {"write": written, "read": read}


def _rates(work: Callable[[], object], amount: float, rounds: int) -> list[float]:
    """What `work`, which does `amount`, does in a second: once for each round, after one that is not counted."""
    once = seconds(work)
    times = max(1, round(ROUND / max(seconds(work) if once < LONGEST else once, 1e-7)))
    return [amount * times / seconds(work, times) for _ in range(rounds)]


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """How long it takes to do `work` that often, with all that it started on the device."""
    from deepspeed.accelerator import get_accelerator

    synchronize = get_accelerator().synchronize
    synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    synchronize()
    return time.perf_counter() - began

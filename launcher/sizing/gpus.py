"""What each GPU type has: memory, peak arithmetic, and how fast it reaches memory, its neighbours and its host.

Owns the reading of gpus.json, which says where each figure is from; a card that a cluster file describes itself is
files/gpu.py's, and what a job makes of the figures is traffic.py's and ladder.py's.

    gpus.load("h100-80gb").memory -> bytes that torch.cuda reports as the device's total
    gpus.fitting("NVIDIA H100 80GB HBM3", 81559 * 2**20) -> "h100-80gb"
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple


class Gpu(NamedTuple):
    """Bytes, floating point operations a second, and bytes a second; 0 where a rate is not known."""

    name: str  # as nvidia-smi begins it
    memory: int
    flops: int  # dense, bf16 (fp16 where there is no bf16)
    bandwidth: int  # of its memory
    link: int  # to the other GPUs of its host, one direction: NVLink, or PCIe where there is none
    host: int  # to its host's memory, one direction
    capability: tuple[int, int]  # CUDA compute capability, or what torch shows in its place
    vendor: str = "nvidia"
    processor: str = "x86-64"  # of its host

    @property
    def timed(self) -> bool:
        """Whether every rate is known that the time of a step follows from."""
        return all((self.flops, self.bandwidth, self.link, self.host))


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
        vendor=row.get("vendor", "nvidia"),
        processor=row.get("processor", "x86-64"),
    )


# nvidia-smi counts what the driver keeps for itself, which is up to 4 % more than CUDA shows.
_NEAR = 0.08


def fitting(model: str, memory: int) -> str:
    """The table's name of a card that nvidia-smi calls `model`, with `memory` bytes; empty when it has none."""
    fits = [
        (len(row["name"]), name)
        for name, row in _table().items()
        if re.match(rf"{re.escape(row['name'])}(?![A-Za-z0-9])", model)
        and abs(memory / 2**30 / row["memory_gib"] - 1) < _NEAR
    ]
    return max(fits)[1] if fits else ""


def named(word: str) -> list[str]:
    """The table's names that a scheduler's word for a GPU may mean: `h100`, `nvidia_h100_80gb_hbm3`, `NVIDIA-L40S`.

    One where the word is the table's own name, or says which card and how much memory it is; several where cards of
    that name differ; none where no card has it.
    """
    words = _words(word)
    if re.search(r"(?:^|[^a-z])mig(?:[^a-z]|$)|[0-9]g\.", word.lower()):
        return []  # a slice of a card has other memory
    own = [name for name in _table() if _words(name) == words]
    if own:
        return own
    sizes = {part for part in words if re.fullmatch("[0-9]+gb", part)}
    found = []
    for name in _table():
        *model, size = _words(name)  # h100, pcie, 80gb
        if set(model) <= set(words) and (not sizes or size in sizes):
            found.append((len(model), name))
    # `NVIDIA H100 PCIe` is no SXM card: the name that says most is meant
    most = max((length for length, _ in found), default=0)
    told = [name for length, name in found if length == most]
    # a bare `h100` may be any card whose name begins so
    wider = [name for name in _table() if len(words) == 1 and _words(name)[0] == words[0]]
    return list(dict.fromkeys([*told, *wider]))


# the maker's words, and how the card is mounted, which the table's names leave out where there is one way
_MAKERS = {
    "nvidia",
    "tesla",
    "geforce",
    "amd",
    "instinct",
    "sxm",
    "sxm2",
    "sxm3",
    "sxm4",
    "sxm5",
    "hbm2",
    "hbm2e",
}
_MAKERS |= {"hbm3", "hbm3e"}


def _words(name: str) -> list[str]:
    parts = re.split(r"[^a-z0-9]+", name.lower().replace("rtx ", "rtx").replace("rtx_", "rtx"))
    return [part for part in parts if part and part not in _MAKERS] or [name.lower()]

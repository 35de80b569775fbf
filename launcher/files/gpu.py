"""The GPU of a cluster's hosts: a name of the table of launcher/sizing/gpus.json, or its figures.

Owns which figures a card that no table has must give; `figures` is the one way from a cluster file to a card's.

    gpu: h100-80gb
    gpu: {name: rtx-2080ti, memory: 10.7GiB, capability: 7.5}
    gpu: {name: h100-80gb, memory: 40GB}        the table's figures, and another memory
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

from launcher.errors import did_you_mean, shown
from launcher.files.fields import TEXT_SCHEMA, Bytes, Pattern, Range, Read, as_text, field
from launcher.sizing import gpus

# What torch shows as the capability of a card that is not CUDA's is the gfx number of AMD's, and none of Intel's; both
# compute in bf16, which is what a capability is asked for.
_OTHERS = {"amd": (9, 0), "intel": (8, 0)}
_EXAMPLE = "gpu: {{name: {}, memory: 24GB, capability: 8.6}}"
_TERA, _GIGA = 10**12, 10**9


def _capability(value: object) -> object:
    text = as_text(value)
    if isinstance(text, str) and not re.fullmatch(r"[0-9]{1,2}\.[0-9]", text):
        raise ValueError(f"{shown(value)} is no compute capability; write it as 8.6")
    return text


Name = Annotated[
    str,
    Read(as_text, TEXT_SCHEMA),
    Pattern(
        r"[A-Za-z0-9][A-Za-z0-9 ._+-]*", "use letters, digits, blanks, '.', '_', '+' and '-'", longest=60
    ),
]
Rate = Annotated[float, Range(1, 10**6)]


@dataclass(frozen=True, kw_only=True)
class GpuType:
    """A card of the table by its name, or one that these figures describe."""

    SHORT: ClassVar = "name"

    name: Name = field(description="A name of the table, or your own for a card that it lacks.")
    memory: Bytes | None = field(
        None, "What `torch.cuda.mem_get_info()` calls total: about 2 % less than nvidia-smi shows."
    )
    capability: Annotated[str, Read(_capability, {"type": ["string", "number"]})] | None = field(
        None, "CUDA compute capability, such as 8.6 (`nvidia-smi --query-gpu=compute_cap --format=csv`)."
    )
    bf16_tflops: Rate | None = field(
        None,
        "Dense rate in bf16, 10^12 operations a second (fp16 where it has no bf16): half of a sparse figure.",
    )
    memory_gbps: Rate | None = field(None, "Rate of its memory, GB/s (bytes).")
    link_gbps: Rate | None = field(
        None, "Rate to the host's other GPUs, GB/s (bytes) in one direction; default: host_gbps."
    )
    host_gbps: Rate | None = field(
        None, "Rate to the host's memory, GB/s (bytes) in one direction: 32 with 16 lanes of PCIe 4."
    )
    vendor: Literal["nvidia", "amd", "intel"] | None = field(
        None, "Whose card it is: images, container options and Kubernetes' resource follow; default: nvidia."
    )

    def __post_init__(self) -> None:
        if self.name in gpus.names():
            return
        wanted = ("memory",) if self.vendor in _OTHERS else ("memory", "capability")
        missing = [name for name in wanted if getattr(self, name) is None]
        if not missing:
            return
        example = _EXAMPLE.format(self.name)
        if all(getattr(self, part.name) is None for part in fields(self) if part.name != self.SHORT):
            if alike := _alike(self.name):
                what = f"{shown(self.name)} is not in the table, which has {', '.join(alike)}"
                raise ValueError(f"{what}; {_EXAMPLE.format('my-card')} describes another card")
            known = (
                did_you_mean(self.name, gpus.names(), most=0) or "launcher/sizing/gpus.json has the names."
            )
            raise ValueError(
                f"{shown(self.name)} is not in the table; {known} Another card is described: {example}"
            )
        what = f"{shown(self.name)} is not in the table, so it needs {' and '.join(missing)}"
        raise ValueError(f"{what}; for example {example}")


def _alike(name: str) -> list[str]:
    """The names of the table that `name` may stand for: a100-40gb and more for A100, rtx4090-24gb for RTX 4090."""
    if name.lower() in gpus.names():
        return [name.lower()]
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    words += [first + second for first, second in itertools.pairwise(words)]
    cards = {known: known.partition("-")[0] for known in gpus.names()}
    same = [known for known, card in cards.items() if card in words]
    return same or [known for known, card in cards.items() if card.removeprefix("rtx") in words]


def figures(gpu: GpuType) -> gpus.Gpu:
    """The card's figures: the table's where it has the name, and those that the file gives."""
    known = gpu.name in gpus.names()
    base = gpus.load(gpu.name) if known else _described(gpu)
    major, minor = map(int, gpu.capability.split(".")) if gpu.capability else base.capability
    return base._replace(
        memory=gpu.memory or base.memory,
        flops=_rate(gpu.bf16_tflops, _TERA, base.flops),
        bandwidth=_rate(gpu.memory_gbps, _GIGA, base.bandwidth),
        link=_rate(gpu.link_gbps, _GIGA, base.link if known else _rate(gpu.host_gbps, _GIGA, 0)),
        host=_rate(gpu.host_gbps, _GIGA, base.host),
        capability=(major, minor),
        vendor=gpu.vendor or base.vendor,
    )


def _described(gpu: GpuType) -> gpus.Gpu:
    """A card without rates, which the file may give."""
    return gpus.Gpu(
        name=gpu.name,
        memory=0,
        flops=0,
        bandwidth=0,
        link=0,
        host=0,
        capability=_OTHERS.get(gpu.vendor or "", (0, 0)),
    )


def _rate(given: float | None, unit: int, otherwise: int) -> int:
    return otherwise if given is None else int(given * unit)

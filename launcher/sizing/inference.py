"""How many bytes a model that only generates needs on one slot, and how many texts it can work on at once.

Owns the formulas of weights that are split and of what is left for keys and values; which engine a job asks for is
planning's.

    inference.estimate(model, inference.Split(tensor=8), asked, Capacity(slot)) -> Inference: weights, text, texts, fits
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.sizing import activations, architecture, cache, memory, states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.sizing.architecture import Architecture

FP32 = 4
# Tokens that a server works through at once at most: vLLM's max_num_batched_tokens on large GPUs.
BATCHED = 8192


class Split(NamedTuple):
    """How ranks share one copy of the model."""

    tensor: int = 1  # ranks that share each layer
    pipeline: int = 1  # groups of layers
    partitioned: int = 1  # ranks of ZeRO-3, which gather layers as they need them
    offload: str = "none"  # where ZeRO-3's weights are instead of on the slots: cpu or nvme
    hosts: int = 1  # that share them there
    paged: bool = False  # keys and values by vLLM: MLA's compressed, embeddings split like layers


class Asked(NamedTuple):
    """What the job wants: texts of at most `length` tokens, `texts` of them at once, elements of `width` bytes."""

    length: int
    texts: int
    width: int
    share: float = 1.0  # of a slot's memory that the engine may take
    gpu: bool = True


class Capacity(NamedTuple):
    """Bytes that a slot has, and a host in its memory and on its NVMe; None: not known."""

    slot: int | None
    host: int | None = None
    nvme: int | None = None


class Inference(NamedTuple):
    """Bytes on one slot; `per_host` are those that a host has in its memory or on NVMe in place of its slots."""

    model: Architecture
    split: Split
    asked: Asked
    weights: int
    other: int  # CUDA's context, what a pass through the layers makes, gathered weights
    text: int  # keys and values of one text of `length` tokens
    per_host: int
    capacity: Capacity

    @property
    def room(self) -> int | None:
        """What is left for keys and values; None where the capacity is not known."""
        if self.capacity.slot is None:
            return None
        return int(self.asked.share * self.capacity.slot) - self.weights - self.other

    @property
    def host_capacity(self) -> int | None:
        """Bytes that a host has where weights are offloaded to; None: not known."""
        return self.capacity.nvme if self.split.offload == "nvme" else self.capacity.host

    @property
    def texts(self) -> int | None:
        """Texts of the whole length that fit at once."""
        room = self.room
        return None if room is None else max(0, room // self.text) if self.text else self.asked.texts

    @property
    def fits(self) -> bool:
        return not self.shortfalls

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """Why the texts that are asked for do not fit, nothing where they do: of a server one, as others can wait."""
        return tuple(self._shortfalls())

    def _shortfalls(self) -> Iterator[str]:
        texts = 1 if self.split.paged else self.asked.texts
        slot = None if self.capacity.slot is None else int(self.asked.share * self.capacity.slot)
        limits = (
            ("GPU" if self.asked.gpu else "rank", self.weights + self.other + self.text * texts, slot),
            ("host's NVMe" if self.split.offload == "nvme" else "host", self.per_host, self.host_capacity),
        )
        for where, needed, available in limits:
            if available is not None and needed > available:
                yield f"needs {needed / 1e9:.1f} GB per {where}, {available / 1e9:.1f} GB available"


def estimate(model: Architecture, split: Split, asked: Asked, capacity: Capacity) -> Inference:
    """The bytes of `model` on one slot, and of offloaded weights on one host."""
    width = asked.width
    context = memory.CONTEXT if asked.gpu else 0
    passing = BATCHED if split.paged else asked.length * asked.texts
    chosen = asked.texts * model.vocab * (width + 3 * FP32)
    working = passing * activations.working(model, width) // split.tensor + chosen
    return Inference(
        model=model,
        split=split,
        asked=asked,
        weights=_weights(model, split, width),
        other=context + working + _gathered(model, split, width),
        text=_text(model, split, asked),
        per_host=0 if split.offload == "none" else -(-width * model.parameters // split.hosts),
        capacity=capacity,
    )


def _weights(model: Architecture, split: Split, width: int) -> int:
    """Layers are split; so are embeddings and head by vLLM, while DeepSpeed's tensor parallelism keeps them whole."""
    if split.offload != "none":
        return 0
    if split.partitioned > 1:
        return width * states.shard(model.parameters, split.partitioned)
    ends = architecture.count((*model.embeddings, *model.norms, *model.head))
    layers = -(-(model.parameters - ends) // (split.tensor * split.pipeline))
    return width * (layers + (-(-ends // split.tensor) if split.paged else ends))


def _gathered(model: Architecture, split: Split, width: int) -> int:
    """ZeRO-3 has a layer and the next one whole; DeepSpeed's default lets up to a billion weights stay."""
    if split.partitioned == 1 and split.offload == "none":
        return 0
    return width * min(model.parameters, 10**9 + model.largest_module)


def _text(model: Architecture, split: Split, asked: Asked) -> int:
    if split.paged and model.latent:  # every rank has all of it
        kept = asked.width * model.latent * sum(s.number for s in model.stacks if s.attends) * asked.length
    else:
        kept = cache.text(model, asked.width, asked.length, split.tensor)
    return -(-kept // split.pipeline)

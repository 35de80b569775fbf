"""How many bytes a model that only generates needs on one slot, and how many texts it can work on at once.

Owns the formulas of weights that are split and of what is left for keys and values; which engine a job asks for is
planning's.

    inference.estimate(model, inference.Split(tensor=8), asked, capacity) -> Inference: weights, text, room, texts, fits
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.sizing import activations, architecture, cache, memory, states

if TYPE_CHECKING:
    from launcher.sizing.architecture import Architecture

FP32 = 4
# Tokens that a server works through at once at most: vLLM's max_num_batched_tokens on large GPUs.
BATCHED = 8192


class Split(NamedTuple):
    """How ranks share one copy of the model."""

    tensor: int = 1  # ranks that share each layer
    pipeline: int = 1  # groups of layers
    partitioned: int = 1  # ranks of ZeRO-3, which gather layers as they need them
    offloaded: bool = False  # ZeRO-3's weights are in host memory or on NVMe
    paged: bool = False  # keys and values by vLLM: MLA's compressed, embeddings split like layers


class Asked(NamedTuple):
    """What the job wants: texts of at most `length` tokens, `texts` of them at once, elements of `width` bytes."""

    length: int
    texts: int
    width: int
    share: float = 1.0  # of a slot's memory that the engine may take
    gpu: bool = True


class Inference(NamedTuple):
    """Bytes on one slot; `capacity` None: not known."""

    model: Architecture
    split: Split
    asked: Asked
    weights: int
    other: int  # CUDA's context, what a pass through the layers makes, gathered weights
    text: int  # keys and values of one text of `length` tokens
    capacity: int | None

    @property
    def room(self) -> int | None:
        """What is left for keys and values; None where the capacity is not known."""
        if self.capacity is None:
            return None
        return int(self.asked.share * self.capacity) - self.weights - self.other

    @property
    def texts(self) -> int | None:
        """Texts of the whole length that fit at once."""
        room = self.room
        return None if room is None else max(0, room // self.text) if self.text else self.asked.texts

    @property
    def fits(self) -> bool:
        """Whether as many fit as are asked for: of a server one, which lets the others wait."""
        texts = self.texts
        return texts is None or texts >= (1 if self.split.paged else self.asked.texts)


def estimate(model: Architecture, split: Split, asked: Asked, capacity: int | None) -> Inference:
    """The bytes of `model` on one slot with `capacity` bytes."""
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
        capacity=capacity,
    )


def _weights(model: Architecture, split: Split, width: int) -> int:
    """Layers are split; so are embeddings and head by vLLM, while DeepSpeed's tensor parallelism keeps them whole."""
    if split.offloaded:
        return 0
    if split.partitioned > 1:
        return width * states.shard(model.parameters, split.partitioned)
    ends = architecture.count((*model.embeddings, *model.norms, *model.head))
    layers = -(-(model.parameters - ends) // (split.tensor * split.pipeline))
    return width * (layers + (-(-ends // split.tensor) if split.paged else ends))


def _gathered(model: Architecture, split: Split, width: int) -> int:
    """ZeRO-3 has a layer and the next one whole; DeepSpeed's default lets up to a billion weights stay."""
    if split.partitioned == 1 and not split.offloaded:
        return 0
    return width * min(model.parameters, 10**9 + model.largest_module)


def _text(model: Architecture, split: Split, asked: Asked) -> int:
    if split.paged and model.latent:  # every rank has all of it
        kept = asked.width * model.latent * sum(s.number for s in model.stacks if s.attends) * asked.length
    else:
        kept = cache.text(model, asked.width, asked.length, split.tensor)
    return -(-kept // split.pipeline)

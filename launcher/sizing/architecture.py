"""The shape of a causal language model: its sizes, its tensors, and the exact parameter counts that follow.

Owns what is counted; leaves the families' tensors to families.py and names and files to models.py.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING

from launcher.frozen import dataclass
from launcher.namedtuple import NamedTuple
from launcher.sizing.saved import NOTHING, More

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from launcher.sizing.seq2seq import Halves


class Weight(NamedTuple):
    """One tensor of parameters: its name as transformers spells it (within its layer) and its shape."""

    name: str
    shape: tuple[int, ...]
    trained: bool = True
    packed: bool = False  # kept in 4 bit, two in a byte

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def stored(self, width: int) -> int:
        """Elements of `width` bytes that it takes."""
        return -(-self.size // (2 * width)) if self.packed else self.size


def count(weights: Iterable[Weight]) -> int:
    """The number of elements in all of `weights`."""
    return sum(w.size for w in weights)


class Stack(NamedTuple):
    """`number` layers that are alike, wherever in the model they are."""

    number: int
    weights: tuple[Weight, ...]  # of one layer
    experts: int = 0  # of a mixture; 0: dense
    active: int = 0  # experts that a token passes through
    every: bool = False  # all experts compute each token, though most of it counts for nothing
    ffn: int = 0  # width of the MLP, or of one expert
    shared: int = 0  # width of the experts that every token passes through
    window: int = 0  # positions that attention looks back; 0: all
    more: More = NOTHING  # what a token saves beside what activations.py counts for every family

    @property
    def parameters(self) -> int:
        """Parameters of one layer."""
        return count(self.weights)

    @property
    def attends(self) -> bool:
        """Whether its queries meet the keys of other positions; linear attention has a state instead."""
        return not any(w.name.startswith("linear_attn.") for w in self.weights)

    @property
    def passed(self) -> int:
        """Experts that compute a token."""
        return self.experts if self.every else self.active

    @property
    def idle(self) -> int:
        """Parameters of one layer that a token passes by."""
        if not self.experts:
            return 0
        expert = count(w for w in self.weights if ".experts." in w.name)
        return expert * (self.experts - self.active) // self.experts


class Adapters(NamedTuple):
    """Low-rank adapters: what adapters.py makes of a job's options."""

    rank: int
    targets: tuple[str, ...]  # ends of names of layers; none: every linear layer but the last
    dropout: bool = False  # before each adapter
    packed: bool = False  # the weights below them are in 4 bit


@dataclass(frozen=True)
class Architecture:
    """A causal language model, its layers grouped by kind."""

    name: str
    family: str  # Hugging Face's model_type
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int  # of queries and keys
    value_dim: int  # of values
    vocab: int
    positions: int  # the longest sequence it was made for; 0: not said
    learned_positions: bool  # a table of positions: a longer sequence is an error, not a loss of quality
    tied: bool  # the head shares the embedding's tensor
    embeddings: tuple[Weight, ...]
    stacks: tuple[Stack, ...]
    norms: tuple[Weight, ...]  # after the last layer
    head: tuple[Weight, ...]  # empty when tied
    mlp_tensors: (
        int  # tensors of the MLP's width that its backward pass needs (launcher/sizing/activations.py)
    )
    wide_gradients: int = 1  # tensors of its width that its backward pass makes beside what is saved
    scaled_residual: bool = False  # what attention and MLP add to the stream is multiplied before
    layer_norm: bool = False  # norms subtract the mean; the others scale in fp32
    dropout: bool = False  # after attention and MLP
    attention_dropout: bool = False  # of what a query takes from each position
    tower: tuple[Stack, ...] = ()  # of images, before the language model; counted apart
    latent: int = 0  # elements that one layer caches for a token in place of keys and values (MLA)
    fused: bool = (
        True  # attention without its scores: transformers lets torch's scaled_dot_product_attention do it
    )
    more: More = NOTHING  # what a token saves outside the layers beside what every family does
    unmeasured: str = ""  # why what the forward pass saves is not known
    adapters: Adapters | None = None  # beside weights that stand still
    halves: Halves | None = None  # of an encoder-decoder, whose first stack is the encoder's

    @property
    def measured(self) -> bool:
        """Whether what the forward pass saves is known, and not the states alone."""
        return not self.unmeasured

    @property
    def layers(self) -> int:
        """The number of layers."""
        return sum(stack.number for stack in self.stacks)

    def with_layers(self, layers: int) -> Architecture:
        """The same with another number of layers: of the kind that most are of."""
        most = max(self.stacks, key=lambda stack: stack.number)
        longer = most._replace(number=max(most.number + layers - self.layers, 1))
        return dataclasses.replace(self, stacks=tuple(longer if s is most else s for s in self.stacks))

    @functools.cached_property
    def groups(self) -> dict[str, int]:
        """Parameters by group: embeddings, layers (all of them), norms, head, and vision where there is a tower."""
        vision = sum(stack.number * stack.parameters for stack in self.tower)
        return {
            "embeddings": count(self.embeddings),
            "layers": sum(stack.number * stack.parameters for stack in self.stacks),
            "norms": count(self.norms),
            "head": count(self.head),
            **({"vision": vision} if vision else {}),
        }

    @functools.cached_property
    def parameters(self) -> int:
        """All parameters, those that stand still too; a tied head counts once."""
        return sum(self.groups.values())

    @functools.cached_property
    def trained(self) -> int:
        """Parameters that have gradients: all, or those of adapters."""
        return self._sum(lambda weight: weight.size if weight.trained else 0)

    @functools.cached_property
    def adapted(self) -> bool:
        """Whether it has all tensors that are trained: not those of adapters where its layers are not known."""
        return self.adapters is None or any(weight.name.endswith(".lora_A") for weight in self.weights)

    @functools.cached_property
    def packed(self) -> int:
        """Parameters that are kept in 4 bit."""
        return self._sum(lambda weight: weight.size if weight.packed else 0)

    @functools.cached_property
    def largest_packed(self) -> int:
        """Elements of the largest tensor in 4 bit."""
        return max((weight.size for weight in self.weights if weight.packed), default=0)

    def stored(self, width: int) -> int:
        """Elements of `width` bytes that all parameters take."""
        return self._sum(lambda weight: weight.stored(width)) if self.packed else self.parameters

    def _sum(self, size: Callable[[Weight], int]) -> int:
        return sum(number * sum(map(size, weights)) for number, weights in self.repeated)

    @functools.cached_property
    def repeated(self) -> tuple[tuple[int, tuple[Weight, ...]], ...]:
        """Every tensor once, with how often there is one like it."""
        others = (*self.embeddings, *self.norms, *self.head)
        return ((1, others), *((stack.number, stack.weights) for stack in (*self.stacks, *self.tower)))

    @functools.cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Every distinct tensor with one layer of each kind standing for all."""
        layers = tuple(w for stack in (*self.stacks, *self.tower) for w in stack.weights)
        return (*self.embeddings, *layers, *self.norms, *self.head)

    @functools.cached_property
    def largest_parameter(self) -> int:
        """Elements of the largest single tensor."""
        return max(w.size for w in self.weights)

    @functools.cached_property
    def largest_trained(self) -> int:
        """Elements of the largest tensor that has a gradient."""
        return max((w.size for w in self.weights if w.trained), default=0)

    @functools.cached_property
    def largest_module(self) -> int:
        """Parameters of the largest single module, its own tensors only.

        What DeepSpeed's ZeRO-3 estimator calls the largest layer (deepspeed/runtime/zero/stage3.py, 0.19.8).
        """
        return max(_largest_module(weights) for _, weights in self.repeated)

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies two projections (SwiGLU)."""
        return any(".gate_proj" in w.name or ".gate_up_proj" in w.name for w in self.weights)

    @functools.cached_property
    def tensors(self) -> int:
        """The number of trainable tensors."""
        return sum(number * len(weights) for number, weights in self.repeated)

    @functools.cached_property
    def active_parameters(self) -> int:
        """Parameters that one token passes through: all, or the routed share of a mixture's experts."""
        return self.parameters - sum(stack.number * stack.idle for stack in self.stacks)


def _largest_module(weights: Iterable[Weight]) -> int:
    modules: dict[str, int] = {}
    for weight in weights:
        module = weight.name.rpartition(".")[0]
        modules[module] = modules.get(module, 0) + weight.size
    return max(modules.values(), default=0)

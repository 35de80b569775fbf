"""The shape of a causal language model: its sizes, its tensors, and the exact parameter counts that follow.

Owns what is counted; leaves the families' tensors to families.py and names and files to models.py.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from launcher.frozen import dataclass
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Weight(NamedTuple):
    """One trainable tensor: its name as transformers spells it (within its layer) and its shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def count(weights: Iterable[Weight]) -> int:
    """The number of elements in all of `weights`."""
    return sum(w.size for w in weights)


@dataclass(frozen=True)
class Architecture:
    """A causal language model. `layer` holds the tensors of one transformer layer; all layers are alike."""

    name: str
    family: str  # Hugging Face's model_type
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int  # width of the MLP (of one expert in a mixture)
    vocab: int
    positions: int  # the longest sequence it was made for
    learned_positions: bool  # a table of positions: a longer sequence is an error, not a loss of quality
    tied: bool  # the head shares the embedding's tensor
    embeddings: tuple[Weight, ...]
    layer: tuple[Weight, ...]
    norms: tuple[Weight, ...]  # after the last layer
    head: tuple[Weight, ...]  # empty when tied
    mlp_tensors: (
        int  # tensors of the MLP's width that its backward pass needs (launcher/sizing/activations.py)
    )
    dropout: bool = False  # after attention and MLP
    experts: int = 0
    active_experts: int = 0

    @functools.cached_property
    def groups(self) -> dict[str, int]:
        """Parameters by group: embeddings, layers (all of them), norms, head."""
        return {
            "embeddings": count(self.embeddings),
            "layers": self.layers * self.layer_parameters,
            "norms": count(self.norms),
            "head": count(self.head),
        }

    @functools.cached_property
    def parameters(self) -> int:
        """Trainable parameters; a tied head counts once."""
        return sum(self.groups.values())

    @functools.cached_property
    def layer_parameters(self) -> int:
        """Parameters of one transformer layer."""
        return count(self.layer)

    @functools.cached_property
    def weights(self) -> tuple[Weight, ...]:
        """Every distinct tensor with one layer standing for all."""
        return (*self.embeddings, *self.layer, *self.norms, *self.head)

    @functools.cached_property
    def largest_parameter(self) -> int:
        """Elements of the largest single tensor."""
        return max(w.size for w in self.weights)

    @functools.cached_property
    def largest_module(self) -> int:
        """Parameters of the largest single module, its own tensors only.

        What DeepSpeed's ZeRO-3 estimator calls the largest layer (deepspeed/runtime/zero/stage3.py, 0.19.8).
        """
        modules: dict[str, int] = {}
        for weight in self.weights:
            module = weight.name.rpartition(".")[0]
            modules[module] = modules.get(module, 0) + weight.size
        return max(modules.values())

    @property
    def gated(self) -> bool:
        """Whether the MLP multiplies two projections (SwiGLU)."""
        return self.family not in ("gpt2", "gpt_neox")

    @functools.cached_property
    def tensors(self) -> int:
        """The number of trainable tensors."""
        return len(self.embeddings) + self.layers * len(self.layer) + len(self.norms) + len(self.head)

    @functools.cached_property
    def active_parameters(self) -> int:
        """Parameters that one token passes through: all, or the routed share of a mixture's experts."""
        if not self.experts:
            return self.parameters
        expert = count(w for w in self.layer if ".experts." in w.name)
        idle = expert * (self.experts - self.active_experts) // self.experts
        return self.parameters - self.layers * idle

"""What runs where: the figures of a job that memory and traffic follow from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from launcher.sizing.architecture import Architecture


class Other(NamedTuple):
    """A model beside the one that learns, as a DeepSpeed engine of its own."""

    model: Architecture
    trained: bool  # by the same configuration; else it stands still, partitioned where the first is
    offloaded: bool = False  # its parameters are in host memory


class Learning(NamedTuple):
    """What a rank does with a micro batch, and holds beside the model; docker/workloads/traits.py says it."""

    loss: str = "whole"  # from logits as docker/workloads/traits.py lists them
    texts: int = 1  # that one sample has
    masked: str = ""  # attention has a mask: of "each" text, or of "all" of a micro batch in one row
    others: tuple[Other, ...] = ()
    forward: int = 0  # passes of a model that stands still over the same texts
    sampled: str = ""  # answers are sampled for a "micro" batch or a "step" at once
    answer: int = 0  # tokens of one
    gathered: bool = False  # stage 3 has all weights whole meanwhile
    passes: int = 1  # forward and backward, for each micro batch


WHOLE = Learning()


class Setup(NamedTuple):
    """What runs where. `world` ranks, `slots` of them on each host; one micro batch of `micro` sequences."""

    world: int
    slots: int
    micro: int
    sequence: int
    checkpointing: bool = False  # activation checkpointing of every layer
    attention: str = "sdpa"  # or "eager"
    learning: Learning = WHOLE
    shared: int = 1  # ranks that share each sample; `sequence` is the part of one
    workers: int = 2  # data loader processes of each rank
    device: str = "cuda"  # or "cpu": ranks without a GPU
    copies: bool = False  # checkpoints are written from copies of the states in host memory
    pinned_round: int | None = (
        None  # bytes above which torch does not round pinned memory up; None: it always does
    )

    @property
    def tokens(self) -> int:
        """Tokens of one micro batch."""
        return self.micro * self.learning.texts * self.sequence

    @property
    def masked(self) -> int:
        """Positions that the mask of a token has."""
        return {"": 0, "each": self.sequence, "all": self.tokens}[self.learning.masked]

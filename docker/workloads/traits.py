"""What a workload is, as its module declares it in `TRAITS`; the launcher reads it without importing torch."""

from __future__ import annotations

from typing import NamedTuple


class Learning(NamedTuple):
    """What a rank holds while it trains, from which the launcher estimates memory."""

    # how the loss is computed from the last layer: "whole": all logits at once; "chunks": some tokens at a time
    # (losses.py); "tiles": TRL's fused head; "score": no logits
    loss: str = "whole"
    padded: bool = False  # to the longest of a batch, or packed, so that attention has a mask
    flat: bool = False  # packed samples of a micro batch are one row
    texts: int = 1  # of a sample: two of a pair
    reference: bool = False  # a copy of the model that stands still, unless adapters turned off are it
    judge: bool = False  # --reward, where it is a model
    critic: bool = False  # a second model that learns, as large as the judge
    sampled: str = ""  # answers are sampled for a "micro" batch or a whole "step" at once


class Traits(NamedTuple):
    """What the launcher must know of a program beside its command line."""

    generates: bool = False  # computes no gradients: weights, keys and values are what it holds
    serves: bool = False  # answers requests until it is stopped
    resolves_auto: bool = False  # Hugging Face's Trainer fills in `auto` in DeepSpeed's configuration
    learning: Learning | None = None  # None: it trains nothing
    packages: tuple[str, ...] = ()  # modules that it needs whatever its options are (packages.py)
    bounded_length: bool = False  # refuses sequences with more tokens than the model has positions
    encoders: bool = False  # trains encoder-decoders too
    converts: bool = False  # goes on from a checkpoint of another number of ranks
    needs_accelerator: bool = True  # its ranks compute on the slots' devices; else any host will do

    @property
    def estimated(self) -> bool:
        """Whether the launcher estimates the memory of training."""
        return self.learning is not None

"""What a workload is, as its module declares it in `TRAITS`; the launcher reads it without importing torch."""

from __future__ import annotations

from typing import NamedTuple


class Traits(NamedTuple):
    """What the launcher must know of a program beside its command line."""

    serves: bool = False  # answers requests until it is stopped
    resolves_auto: bool = False  # Hugging Face's Trainer fills in `auto` in DeepSpeed's configuration
    estimated: bool = False  # trains one model with one optimizer: its memory follows the launcher's formulas
    chunked_loss: bool = False  # never holds the logits of a whole micro batch (losses.py)
    packages: tuple[str, ...] = ()  # modules that it needs whatever its options are (packages.py)
    bounded_length: bool = False  # refuses sequences with more tokens than the model has positions
    needs_accelerator: bool = True  # its ranks compute on the slots' devices; else any host will do

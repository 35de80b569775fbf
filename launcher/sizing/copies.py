"""How many bytes the copies take from which ranks write a checkpoint while training goes on.

Owns these formulas: a copy is of what the rank writes (docker/workloads/snapshot.py), so its size is that of its files.
Without ZeRO, and of weights that are not partitioned, only the first rank writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.sizing import states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.sizing.architecture import Architecture
    from launcher.sizing.setup import Setup
    from launcher.sizing.zero import Zero


def rank(models: list[Architecture], settings: Zero, setup: Setup) -> int:
    """Bytes of the first rank, which writes most."""
    return sum(
        number * size
        for model in models
        for size, number in (*_own(model, settings, setup), *_first(model, settings))
    )


def host(models: list[Architecture], settings: Zero, setup: Setup) -> int:
    """Bytes of all ranks of the first host, page-locked: with what that is rounded up (memory.py, `rounded`)."""
    ranks = min(setup.slots, setup.world) if settings.stage else 1
    return sum(
        ranks * _pinned(_own(model, settings, setup), setup) + _pinned(_first(model, settings), setup)
        for model in models
    )


def _own(model: Architecture, settings: Zero, setup: Setup) -> Iterator[tuple[int, int]]:
    """(bytes, number) of the tensors of master weights and moments that a rank writes."""
    own = states.shard(model.trained, setup.world) if settings.stage else model.trained
    tile = min(own, settings.sub_group) if settings.stage == 3 else own
    for size in (tile, own % tile if tile else 0):
        number = own // tile if size == tile and tile else 1
        yield size * states.master(settings), number
        yield size * settings.state_bytes, number * settings.states


def _first(model: Architecture, settings: Zero) -> Iterator[tuple[int, int]]:
    """Likewise of weights, which the first rank writes where they are not partitioned."""
    if settings.stage < 3:
        yield settings.weight_bytes * model.trained, 1


def _pinned(tensors: Iterator[tuple[int, int]], setup: Setup) -> int:
    return sum(number * rounded(size, setup.pinned_round) for size, number in tensors)


def rounded(size: int, most: int | None) -> int:
    """Bytes that torch page-locks for `size`: a power of two up to `most` bytes, or of any size where that is None.

    ATen/core/CachingHostAllocator.h; PYTORCH_ALLOC_CONF sets pinned_max_round_threshold_mb.
    """
    if not size or (most is not None and size > most):
        return size
    return 1 << max(size - 1, 0).bit_length()

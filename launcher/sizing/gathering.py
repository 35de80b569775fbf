"""Which weights stage 3 gathers together, and which it lets go of before the backward pass: elements of each.

Owns the order in which DeepSpeed 0.19.8 fetches and prefetches
(deepspeed/runtime/zero/partitioned_param_coordinator.py); how many weights are there at once is states.py's.
tests/docker/workloads/test_memory_measured.py compares.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from typing import TYPE_CHECKING

from launcher.sizing import states

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.sizing.architecture import Architecture
    from launcher.sizing.setup import Setup
    from launcher.sizing.zero import Zero


def dropped(model: Architecture, settings: Zero) -> int:
    """Elements of gathered weights that no backward pass asks for: an embedding that stands still, unless tied."""
    if not (model.adapters and model.head and settings.stage == 3):
        return 0
    sizes = (weight.stored(settings.weight_bytes) for weight in model.embeddings if not weight.trained)
    return sum(size for size in sizes if size >= settings.persistence)


def fetched(model: Architecture, settings: Zero, setup: Setup) -> int:
    """Elements of the most weights that arrive together: those of a module, or those that are prefetched.

    They are there twice: in the buffer that receives them and copied out
    (deepspeed/runtime/zero/partition_parameters.py, AllGatherCoalescedHandle). One that arrives alone is received where
    it stays, and so does all that a single rank has.
    """
    if settings.stage < 3 or setup.world == 1:
        return 0
    modules = max((sum(sizes) for sizes in _modules(model, settings) if len(sizes) > 1), default=0)
    groups = max((sum(sizes) for sizes in _groups(model, settings) if len(sizes) > 1), default=0)
    return min(states.gathered(model, settings, setup), max(modules, groups))


def _each(model: Architecture, settings: Zero, embeddings: bool = False) -> Iterator[tuple[str, int]]:
    """Module and elements of each weight that is gathered, in the order of the forward pass."""
    layers = (stack.weights for stack in model.stacks for _ in range(stack.number))
    for weights in (*([model.embeddings] if embeddings else []), *layers, model.head):
        for weight in weights:
            if (size := weight.stored(settings.weight_bytes)) >= settings.persistence:
                yield weight.name.rpartition(".")[0], size


def _modules(model: Architecture, settings: Zero) -> Iterator[list[int]]:
    """The weights of each module after the embedding, which are fetched together where nothing was prefetched."""
    once = dataclasses.replace(model, stacks=tuple(stack._replace(number=1) for stack in model.stacks))
    for _, own in itertools.groupby(_each(once, settings), key=operator.itemgetter(0)):
        yield [size for _, size in own]


def _groups(model: Architecture, settings: Zero) -> Iterator[list[int]]:
    """The weights that are prefetched together: until they are as many as asked for."""
    most = min(settings.prefetch, settings.max_live)
    group = list[int]()
    for _, size in _each(model, settings, embeddings=True) if most else ():
        group.append(size)
        if sum(group) >= most:
            yield group
            group = []
    if group:
        yield group

"""Bytes of the tensors that are alive, and of those that a forward pass saves for backward.

Counted from the tensors themselves, so that they are exact on a CPU too, where a process's resident memory says little.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from deepspeed import DeepSpeedEngine


def alive(device: torch.device) -> int:
    """Bytes of all tensors alive on the device, each storage once.

    The least of three counts: a thread of gloo lets go of what it has sent only after the collective has returned.
    """
    counts = [_alive(device)]
    for _ in range(2):
        time.sleep(0.05)
        counts.append(_alive(device))
    return min(counts)


def _alive(device: torch.device) -> int:
    import torch

    gc.collect()
    sizes = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == device.type:
            tensors = [thing, thing.grad] if thing.is_leaf and thing.grad is not None else [thing]
            for tensor in tensors:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


class Saved:
    """Counts what a forward pass saves for backward, but for the weights."""

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._weights = {p.untyped_storage().data_ptr() for p in engine.module.parameters()}
        self._sizes: dict[int, int] = {}

    def __enter__(self) -> Saved:
        import torch

        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    def _note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        return sum(self._sizes.values())

"""A copy in host memory of what a file of a checkpoint will hold, so that training may change the original.

Owns the memory of the copies, which the next checkpoint uses again: page-locked where there is a device, which then
copies at the full speed of its link. What is copied is what torch.save would write: each storage once and whole, as
tensors share them, and everything else by way of pickle, so that an object that training changes is a copy as well.
"""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch.storage import TypedStorage, UntypedStorage

if TYPE_CHECKING:
    from collections.abc import Callable


class Copies:
    """The copies of one checkpoint at a time, on this rank."""

    def __init__(self, device: torch.device) -> None:
        self._pins = device.type != "cpu"
        self._free: defaultdict[int, list[torch.Tensor]] = defaultdict(list)  # by their bytes
        self._taken: list[torch.Tensor] = []

    def take(self, state: object) -> Any:
        """A copy of `state`, in host memory once `wait` returns. Raises RuntimeError where there is no room."""
        storages: dict[int, tuple[UntypedStorage, UntypedStorage]] = {}  # theirs and ours, by identity

        def place(storage: UntypedStorage) -> int:
            key: int = storage._cdata
            if key not in storages:
                storages[key] = storage, self._copy(storage)
            return key

        stream = io.BytesIO()
        _Pickler(stream, place).dump(state)
        stream.seek(0)
        return _Unpickler(stream, lambda key: storages[key][1]).load()

    def wait(self) -> None:
        """Until the device has copied everything that was taken."""
        if self._pins:
            from deepspeed.accelerator import get_accelerator

            get_accelerator().synchronize()

    def give_back(self) -> None:
        """The copies are not needed any more: their memory is for the next ones."""
        for block in self._taken:
            self._free[block.numel()].append(block)
        self._taken.clear()

    def _copy(self, storage: UntypedStorage) -> UntypedStorage:
        size = storage.nbytes()
        block = self._free[size].pop() if self._free[size] else self._block(size)
        self._taken.append(block)
        view = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        block.copy_(view, non_blocking=self._pins)
        return block.untyped_storage()

    def _block(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._pins)


class _Pickler(pickle.Pickler):
    """Leaves out the bytes of storages, like torch.save's."""

    def __init__(self, stream: io.BytesIO, place: Callable[[UntypedStorage], int]) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._place = place

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, TypedStorage):
            return self._place(value._untyped_storage), value.dtype
        if isinstance(value, UntypedStorage):
            return self._place(value), None
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, copy: Callable[[int], UntypedStorage]) -> None:
        super().__init__(stream)
        self._copy = copy

    def persistent_load(self, reference: Any) -> Any:
        key, dtype = reference
        storage = self._copy(key)
        return storage if dtype is None else TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)

"""The tokens of all shards as one array that stays on disk, and the document that each belongs to."""

from __future__ import annotations

import functools
import resource
from typing import TYPE_CHECKING, NamedTuple

from workloads import megatron

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

MOST = 256  # files mapped at once, of each kind: a mapping holds a file open


def _open() -> int:
    """So many of MOST that a mixture of sources, with an index each, stays below what this process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if limit == resource.RLIM_INFINITY else max(8, min(MOST, limit // 32))


class Entry(NamedTuple):
    """A shard, as corpus.json lists it."""

    name: str
    tokens: int
    documents: int
    continues: bool = False  # its first document is the rest of the last one before


class Shards:
    """The tokens of shards in a folder, one after the other. Arrays of places give arrays of the same shape."""

    def __init__(self, folder: Path, dtype: str, entries: Sequence[Entry]) -> None:
        import numpy as np

        self._folder, self._dtype = folder, dtype
        self._entries = [entry for entry in entries if entry.tokens]
        self._ends = np.array([entry.tokens for entry in self._entries], dtype=np.int64).cumsum()
        own = np.array([entry.documents - entry.continues for entry in self._entries], dtype=np.int64)
        continued = np.array([int(entry.continues) for entry in self._entries], dtype=np.int64)
        self._numbers = own.cumsum() - own - continued - 1  # of the document before a shard's first one
        self._ids = functools.lru_cache(_open())(self._map)
        self._index = functools.lru_cache(_open())(self._read_index)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """The tokens at these places."""

        def ids(shard: int, near: np.ndarray) -> np.ndarray:
            taken: np.ndarray = self._ids(shard)[near]
            return taken

        return self._gather(places, self._dtype, ids)

    def document(self, places: np.ndarray) -> np.ndarray:
        """The number of the document that each place belongs to."""
        import numpy as np

        item = np.dtype(self._dtype).itemsize

        def numbers(shard: int, near: np.ndarray) -> np.ndarray:
            begun: np.ndarray = self._index(shard).pointers.searchsorted(near * item, side="right")
            begun += self._numbers[shard]
            return begun

        return self._gather(places, "int64", numbers)

    def _gather(
        self, places: np.ndarray, dtype: str, read: Callable[[int, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        import numpy as np

        shard = self._ends.searchsorted(places, side="right")
        result = np.empty(places.shape, dtype=dtype)
        for number in np.unique(shard).tolist():
            here = shard == number
            begin = self._ends[number] - self._entries[number].tokens
            result[here] = read(number, places[here] - begin)
        return result

    def _map(self, shard: int) -> np.ndarray:
        import numpy as np

        return np.memmap(self._folder / f"{self._entries[shard].name}.bin", dtype=self._dtype, mode="r")

    def _read_index(self, shard: int) -> megatron.Index:
        return megatron.read_index(self._folder / f"{self._entries[shard].name}.idx")

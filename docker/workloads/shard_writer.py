"""One shard: its documents as tokens in Megatron's .bin and .idx, whole or not at all.

Beside the pair, until the cache is complete, lies NAME.npz: what the summary and the choice of held-out documents need.
The .idx is put in place last: where it is, the shard is whole.
"""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from workloads import megatron, reading, token_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from workloads.cutting import Part, Shard
    from workloads.encoding import Encoder

PIECES, BYTES = 256, 1 << 20  # tokenized at once, at most
TOKENS = 1 << 22  # of a file of tokens copied at once, but whole documents


def whole(folder: Path, name: str) -> bool:
    """Whether a shard is there."""
    return (folder / f"{name}.idx").exists()


def write(folder: Path, shard: Shard, encoder: Encoder, beat: Callable[[int], None]) -> None:
    """Write a shard; `beat` is called often, with the bytes of source that are done. Raises Stop for bad sources."""
    import numpy as np

    own = f"{socket.gethostname()}.{os.getpid()}"
    halves = {suffix: folder / f".{shard.name}.{own}.{suffix}" for suffix in ("bin", "npz", "idx")}
    began = time.process_time()
    with halves["bin"].open("wb") as file:
        writer = Writer(encoder, file)
        done = 0
        for part in shard.parts:
            writer.write_part(part, functools.partial(_share, beat, done, part.size))
            done += part.size
        writer.close()
        _to_disk(file)
    lengths, keys = (np.array(column, dtype=np.int64) for column in (writer.lengths, writer.keys))
    facts = {
        "bytes": writer.bytes,
        "seconds": time.process_time() - began,
        "continues": not shard.parts[0].begins,
    }
    arrays: dict[str, Any] = {name: np.array(fact) for name, fact in facts.items()}
    with halves["npz"].open("wb") as file:
        np.savez(file, keys=keys, counts=writer.counts, **arrays)
        _to_disk(file)
    with halves["idx"].open("wb") as file:
        megatron.write_index(file, encoder.dtype, lengths)
        _to_disk(file)
    for suffix, half in halves.items():
        half.replace(folder / f"{shard.name}.{suffix}")


def _share(beat: Callable[[int], None], before: int, size: int, share: float) -> None:
    beat(before + int(share * size))


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@dataclass
class Writer:
    """Writes documents one after the other, and remembers of each how long it is and a hash of its text."""

    encoder: Encoder
    file: IO[bytes]
    lengths: Any = field(default_factory=lambda: _numbers())
    keys: Any = field(default_factory=lambda: _numbers())
    counts: Any = None  # of each token
    bytes: int = 0  # of text
    tokens: int = 0
    _open: tuple[int, Any] | None = None  # first token, and hash of the text until now

    def write_part(self, part: Part, beat: Callable[[float], None]) -> None:
        """Write a part's documents; `beat` gets the share of it that is done."""
        if part.kind == "megatron":
            self._copy(_megatron(part, self.encoder), part, beat)
        elif part.kind == "tokens":
            self._copy(_plain(part, self.encoder), part, beat)
        else:
            self._tokenize(part, beat)

    def close(self) -> None:
        """End a document that goes on in the next shard."""
        if self._open is not None:
            self._end()
        if self.counts is None:  # no document
            self._put(_no_ids(self.encoder.dtype))

    def _tokenize(self, part: Part, beat: Callable[[float], None]) -> None:
        read, before = reading.pieces(part), self.bytes
        while some := list(_some(read)):
            self._encode(some, begins=part.begins)
            beat(min(1.0, (self.bytes - before) / part.size))

    def _encode(self, pieces: list[str | None], *, begins: bool) -> None:
        import numpy as np

        encoder = self.encoder
        begin, end = (np.array(ids, dtype=encoder.dtype) for ids in (encoder.begin, encoder.end))
        encoded = iter(encoder.encode([piece for piece in pieces if piece is not None]))
        rows = []
        for piece in pieces:
            if self._open is None:
                self._open = self.tokens, hashlib.blake2b(digest_size=8)
                if begins or self.tokens:
                    rows.append(begin)
                    self.tokens += len(begin)
            raw = (encoder.between if piece is None else piece).encode()
            rows.append(end if piece is None else next(encoded))
            self.tokens += len(rows[-1])
            self.bytes += len(raw)
            self._open[1].update(raw)
            if piece is None:
                self._end()
        self._put(np.concatenate(rows))

    def _end(self) -> None:
        assert self._open is not None
        start, digest = self._open
        self.lengths.append(self.tokens - start)
        self.keys.append(int.from_bytes(digest.digest(), "little", signed=True))
        self._open = None

    def _copy(
        self, blocks: Iterator[tuple[np.ndarray, np.ndarray]], part: Part, beat: Callable[[float], None]
    ) -> None:
        """Write tokens of others: ids, and the end of each document among them."""
        done = 0
        for ids, ends in blocks:
            start = 0
            for end in ends.tolist():
                key = hashlib.blake2b(ids[start:end].tobytes(), digest_size=8).digest()
                self.lengths.append(end - start)
                self.keys.append(int.from_bytes(key, "little", signed=True))
                start = end
            self.tokens += len(ids)
            self._put(ids)
            done += len(ends) if part.kind == "megatron" else len(ids)
            beat(done / (part.end - part.first))

    def _put(self, ids: np.ndarray) -> None:
        import numpy as np

        ids.tofile(self.file)
        if self.counts is None:
            self.counts = np.zeros(self.encoder.vocabulary, dtype=np.int64)
        self.counts += np.bincount(ids, minlength=len(self.counts))


def _numbers() -> Any:
    from array import array

    return array("q")


def _no_ids(dtype: str) -> np.ndarray:
    import numpy as np

    return np.zeros(0, dtype=dtype)


def _some(pieces: Iterator[str | None]) -> Iterator[str | None]:
    size = 0
    for piece in islice(pieces, PIECES):
        yield piece
        size += len(piece or "")
        if size >= BYTES:
            return


def _megatron(part: Part, encoder: Encoder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import numpy as np

    path = Path(part.path)
    index = megatron.read_index(path.with_suffix(".idx"))
    item = np.dtype(index.dtype).itemsize
    data = np.memmap(path, dtype=np.dtype(index.dtype).newbyteorder("<"), mode="r")
    at = part.first
    while at < part.end:
        sequences = np.array(index.documents[at : min(at + PIECES, part.end) + 1])
        lengths = index.lengths[sequences[0] : sequences[-1]].astype(np.int64)
        ends = np.concatenate([[0], lengths.cumsum()])[sequences - sequences[0]]
        count = max(1, int(np.searchsorted(ends[1:], TOKENS, side="right")))  # documents
        first = int(index.pointers[sequences[0]]) // item if len(lengths) else 0
        ids = data[first : first + int(ends[count])]
        token_files.check_ids(ids, encoder.vocabulary, f"{path}, from document {at:,} on")
        yield ids.astype(encoder.dtype), ends[1 : count + 1]
        at += count


def _plain(part: Part, encoder: Encoder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import numpy as np

    tokens = token_files.read(Path(part.path))
    ids, at = tokens.ids(), part.first
    while at < part.end:
        block = ids[at : min(at + TOKENS, part.end)]
        token_files.check_ids(block, encoder.vocabulary, f"{part.path}, from token {at:,} on")
        marks = np.flatnonzero(block == encoder.end_token) if encoder.end_token is not None else block[:0]
        ends = marks[marks > 0] if tokens.end_first else marks + 1
        if at + len(block) < part.end and len(ends):  # what is left belongs to a document that goes on
            block = block[: ends[-1]]
        else:
            ends = np.unique(np.append(ends, len(block)))
        yield block.astype(encoder.dtype), ends
        at += len(block)

"""Megatron's indexed data set: a .bin of token ids and an .idx that says where each sequence and document is.

Owns the layout, as github.com/NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py, writes it; little-endian:
  9 bytes "MMIDIDX\\0\\0" · uint64 version 1 · uint8 type of the ids · uint64 sequences · uint64 documents + 1
  int32 [sequences]      tokens of each sequence
  int64 [sequences]      the byte of the .bin at which it begins
  int64 [documents + 1]  the sequence with which each document begins, and the number of sequences
An int8 for each sequence may follow (its mode, where there are images); it is passed over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from workloads.session import Stop

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}  # 6 and 7 are floats
CODES = {name: code for code, name in TYPES.items()}
AT_ONCE = 1 << 20  # entries of an index checked at once


@dataclass(frozen=True)
class Index:
    """An .idx file, mapped into memory."""

    path: Path
    dtype: str
    lengths: np.ndarray  # int32 [sequences]
    pointers: np.ndarray  # int64 [sequences]
    documents: np.ndarray  # int64 [documents + 1]


def type_for(vocabulary: int) -> str:
    """The smallest of Megatron's types that holds ids below `vocabulary`."""
    return "uint8" if vocabulary <= 1 << 8 else "uint16" if vocabulary <= 1 << 16 else "int32"


def write_index(file: IO[bytes], dtype: str, lengths: np.ndarray) -> None:
    """Write the index of documents of one sequence each that follow one another; `lengths` are their tokens."""
    import numpy as np

    count, size = len(lengths), np.dtype(dtype).itemsize
    head = MAGIC, 1, CODES[dtype], count, count + 1
    file.write(HEADER.pack(*head))
    file.write(lengths.astype("<i4").tobytes())
    ends = lengths.astype(np.int64).cumsum() * size
    file.write((ends - lengths.astype(np.int64) * size).astype("<i8").tobytes())
    file.write(np.arange(count + 1, dtype="<i8").tobytes())


def read_index(path: Path) -> Index:
    """The index of an .idx file. Raises Stop when it is none."""
    import numpy as np

    size = path.stat().st_size
    head = path.open("rb").read(HEADER.size) if size >= HEADER.size else b""
    if head[: len(MAGIC)] != MAGIC:
        raise Stop(
            f"--data {path}: not an index of Megatron's (it does not begin with MMIDIDX): make it again"
        )
    _, version, code, sequences, documents = HEADER.unpack(head)
    if version != 1 or code not in TYPES:
        raise Stop(
            f"--data {path}: version {version} and type {code} of Megatron's index are not known "
            f"(version 1, and types {', '.join(map(str, TYPES))}): make it again"
        )
    expected = HEADER.size + 12 * sequences + 8 * documents
    if size not in (expected, expected + sequences):
        raise Stop(
            f"--data {path}: it has {size:,} bytes, and {sequences:,} sequences and {documents:,} documents' ends take "
            f"{expected:,}: it is cut off or broken, copy it again"
        )

    whole = np.memmap(path, dtype=np.uint8, mode="r")  # one mapping holds one file open

    def part(kind: str, count: int, offset: int) -> np.ndarray:
        return whole[offset : offset + count * np.dtype(kind).itemsize].view(kind)

    pointers = HEADER.size + 4 * sequences
    return Index(
        path,
        TYPES[code],
        lengths=part("<i4", sequences, HEADER.size),
        pointers=part("<i8", sequences, pointers),
        documents=part("<i8", documents, pointers + 8 * sequences),
    )


def check(index: Index, data: Path) -> None:
    """Raise Stop unless the index fits the .bin: its sequences fill it in order, its documents are all of them."""
    import numpy as np

    item, end, size = np.dtype(index.dtype).itemsize, 0, data.stat().st_size
    for first in range(0, len(index.lengths), AT_ONCE):
        lengths = index.lengths[first : first + AT_ONCE].astype(np.int64) * item
        begins = end + lengths.cumsum() - lengths
        wrong = np.flatnonzero((index.pointers[first : first + AT_ONCE] != begins) | (lengths < 0))
        if len(wrong):
            raise Stop(
                f"--data {index.path}: sequence {first + int(wrong[0]):,} does not begin where the one before ends: "
                "the index does not fit its data, make both again"
            )
        end += int(lengths.sum())
    if end != size:
        raise Stop(
            f"--data {data}: it has {size:,} bytes and its index speaks of {end:,}: one of the two is cut off or of "
            "another text, copy both again"
        )
    ends = index.documents
    ordered = all((np.diff(ends[n : n + AT_ONCE + 1]) >= 0).all() for n in range(0, len(ends), AT_ONCE))
    if not len(ends) or int(ends[0]) or int(ends[-1]) != len(index.lengths) or not ordered:
        raise Stop(
            f"--data {index.path}: its documents are not all of its sequences, in order: the index does not fit its "
            "data, make both again"
        )

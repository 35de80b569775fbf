"""Files of tokens that others have made: Megatron's pairs, nanoGPT's and llm.c's .bin.

Owns their headers and what their ids are checked for. Megatron's index is megatron.py's.

nanoGPT (data/*/prepare.py) writes uint16 and nothing else, an end token after each document. llm.c
(dev/data/data_common.py) writes 256 int32 first: a number that says which it is, a version, how many tokens follow; its
end token stands before each document.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from workloads.session import Stop

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

LLMC_HEADER = 256 * 4
LLMC = {(20240520, 1): "uint16", (20240801, 7): "uint32"}  # number and version → type: GPT-2's, Llama 3's
NANOGPT = "uint16"


class Tokens(NamedTuple):
    """A .bin without an index: `length` ids of type `dtype` from byte `offset` on."""

    path: Path
    dtype: str
    offset: int
    length: int

    @property
    def end_first(self) -> bool:
        """Whether the end token stands before a document (llm.c) or after it."""
        return self.offset > 0

    def ids(self) -> np.ndarray:
        """All ids, mapped into memory."""
        import numpy as np

        return np.memmap(self.path, self.dtype, "r", offset=self.offset, shape=(self.length,))


def known(path: Path) -> bool:
    """Whether a .bin says itself that it holds tokens: by an index beside it, or by llm.c's header."""
    return path.with_suffix(".idx").is_file() or _header(path)[:2] in LLMC


def read(path: Path) -> Tokens:
    """A .bin without an index. Raises Stop when it holds no whole tokens, or not as many as its header says."""
    size, (number, version, count) = path.stat().st_size, _header(path)
    dtype = LLMC.get((number, version))
    if dtype is None:
        if size % 2:
            raise Stop(
                f"--data {path}: {size:,} bytes are no uint16 tokens (nanoGPT's .bin); it has neither llm.c's header "
                f"nor {path.with_suffix('.idx').name} beside it: copy it again, with its index if it is Megatron's"
            )
        return Tokens(path, NANOGPT, 0, size // 2)
    whole = LLMC_HEADER + count * (2 if dtype == "uint16" else 4)
    if size != whole:
        raise Stop(
            f"--data {path}: its header says {count:,} tokens, which are {whole:,} bytes, and it has {size:,}: it is "
            "cut off or broken, copy it again"
        )
    return Tokens(path, dtype, LLMC_HEADER, count)


def check_ids(ids: np.ndarray, vocabulary: int, place: str) -> None:
    """Raise Stop when an id is not one of the tokenizer's; `place` says where the ids are."""
    import numpy as np

    if not len(ids) or (int(ids.max()) < vocabulary and int(ids.min()) >= 0):
        return
    bad = int(np.flatnonzero((ids >= vocabulary) | (ids < 0))[0])
    raise Stop(
        f"--data {place}: token {bad:,} has the id {int(ids[bad]):,}, and the tokenizer {vocabulary:,} tokens: name "
        "the tokenizer that the file was made with by --tokenizer"
    )


def _header(path: Path) -> tuple[int, int, int]:
    with path.open("rb") as file:
        head = file.read(LLMC_HEADER)
    if len(head) < LLMC_HEADER:
        return 0, 0, 0
    number, version, count = struct.unpack_from("<3i", head)
    return number, version, count

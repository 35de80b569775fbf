"""Text: the documents of all sources one after the other, as pieces.

Owns that sequence; what a source is, is in sources.py, how a file is read in reading.py. Their tokens are corpus.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads import cutting, reading, sources
from workloads.sources import files, hugging_face

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "files",
    "hugging_face",
    "pieces",
]  # the first two for examples, which are rows of the same sources


def pieces(words: Sequence[str]) -> Iterator[str | None]:
    """The text of all sources in pieces of at most a few dozen kilobytes; None ends a document."""
    for part in cutting.text_parts(sources.parse(words)):
        yield from reading.pieces(part)

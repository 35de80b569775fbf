"""Which documents of a text are held out from training.

A twentieth of the tokens, at most 4 Mi: whole documents, in the order of the hashes of their text, so that the same
document is held out whatever the order of the sources, and two copies of it stay on one side. Documents longer than a
sixteenth of what is to be held out are cut into sections no longer than that. Memory does not grow with the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads import shuffle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

SHARE = 20  # one token in so many
MOST = 4 << 20  # tokens
SECTIONS = 16  # at least, so that no document alone decides how hard the held-out text is
SECTION = 1024  # tokens; no document is cut into shorter ones
BINS = 16  # bits of a hash by which sections are counted before some are chosen


def choose(shards: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]], tokens: int) -> np.ndarray:
    """The sections held out: int64 [sections, 2], first token and end of each, in random order.

    `shards` yields, each time it is called, the lengths and the hashes (int64) of each shard's documents; all have
    `tokens` tokens.
    """
    import numpy as np

    target = min(tokens // SHARE, MOST)
    if not target:
        return np.zeros((0, 2), dtype=np.int64)
    longest = max(target // SECTIONS, min(target, SECTION))
    counts, shift = np.zeros(1 << BINS), np.uint64(64 - BINS)
    for lengths, keys in shards():
        first, end, order = _sections(lengths, keys, longest)
        counts += np.bincount((order >> shift).astype(np.int64), end - first, len(counts))
    last = np.uint64(counts.cumsum().searchsorted(target, side="right"))
    chosen, begin = [], 0
    for lengths, keys in shards():
        first, end, order = _sections(lengths, keys, longest)
        near = order >> shift <= last
        chosen.append((np.stack([first[near], end[near]], axis=1) + begin, order[near]))
        begin += int(lengths.sum())
    spans, order = (np.concatenate(column) for column in zip(*chosen, strict=True))
    sorting = np.argsort(order, kind="stable")
    spans, order = spans[sorting], order[sorting]
    count = int(((spans[:, 1] - spans[:, 0]).cumsum() <= target).sum())
    fewer = (
        int(order[:count].searchsorted(order[count])) if count < len(order) else count
    )  # copies stay together
    kept: np.ndarray = spans[: fewer or count]  # a text of nothing but copies cannot keep them together
    return kept


def _sections(
    lengths: np.ndarray, keys: np.ndarray, longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first token and the end of each section of these documents, and what they are sorted by (uint64)."""
    import numpy as np

    starts = lengths.cumsum() - lengths
    parts = -(-lengths // longest)
    document = np.repeat(np.arange(len(starts)), parts)
    part = np.arange(len(document)) - np.repeat(parts.cumsum() - parts, parts)
    first, end = (starts[document] + lengths[document] * (part + more) // parts[document] for more in (0, 1))
    order = shuffle.mix(keys[document].view(np.uint64) ^ shuffle.mix(part.astype(np.uint64)))
    return first, end, order

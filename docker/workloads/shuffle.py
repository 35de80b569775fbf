"""A random order of n things that is computed place by place, so that no rank holds a list of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ROUNDS = 6


def permuted(places: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which of `count` things stands at each of these places, int64; a bijection of 0 … count - 1 for each seed.

    A balanced Feistel network over the smallest even number of bits that holds `count` (Luby and Rackoff, 1988), walked
    until it arrives below `count` (Black and Rogaway, 2002, cycle walking): at most four rounds of it on average.
    """
    import numpy as np

    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = mix(np.arange(ROUNDS, dtype=np.uint64) ^ mix(np.array([seed], dtype=np.uint64)))
    result = np.array(places, dtype=np.uint64)
    walking = np.ones(result.shape, dtype=bool)
    while walking.any():
        left, right = result[walking] >> half, result[walking] & low
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & low)
        result[walking] = left << half | right
        walking = result >= count
    return result.astype(np.int64)


def mix(values: np.ndarray) -> np.ndarray:
    """A hash of each uint64: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    import numpy as np

    mixed = values + np.uint64(0x9E3779B97F4A7C15)  # arrays of uint64 wrap around
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return hashed

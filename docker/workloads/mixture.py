"""Which source of a mixture each sample comes from, by its position alone.

Shares are exact: the sequence repeats after as many samples as the weights need to come out even, and within it each
source's samples are spread evenly. So every batch has nearly the shares of the whole, on any number of ranks, and a run
that continues at a position sees what it would have seen.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

LONGEST = 1 << 20  # samples of a period at most; weights that need more are rounded to a millionth


class Schedule:
    """The sources of all positions."""

    def __init__(self, weights: Sequence[float]) -> None:
        """`weights` are positive, in any unit."""
        import numpy as np

        self.quotas = quotas(weights)
        self.period = sum(self.quotas)
        times = np.concatenate([(np.arange(quota) + 0.5) / quota for quota in self.quotas])
        source = np.repeat(np.arange(len(self.quotas)), self.quotas)
        index = np.concatenate([np.arange(quota) for quota in self.quotas])
        order = times.argsort(kind="stable")
        self._source, self._index = source[order], index[order]

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each position's source, and which of that source's samples it is, from 0."""
        import numpy as np

        cycles, places = np.divmod(positions, self.period)
        source = self._source[places]
        return source, cycles * np.array(self.quotas)[source] + self._index[places]

    def taken(self, positions: int) -> list[int]:
        """How many of the first so many samples come from each source."""
        import numpy as np

        cycles, rest = divmod(positions, self.period)
        counts = np.bincount(self._source[:rest], minlength=len(self.quotas))
        return [int(cycles * quota + count) for quota, count in zip(self.quotas, counts, strict=True)]


def quotas(weights: Sequence[float]) -> list[int]:
    """How many samples of a period each source gives, in the ratio of the weights as they are written."""
    exact = [Fraction(repr(weight)) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= LONGEST:
        return [int(share * period) for share in shares]
    wished = [max(share * LONGEST, Fraction(1)) for share in shares]
    counts = [int(wish) for wish in wished]
    most_left = sorted(range(len(counts)), key=lambda n: counts[n] - wished[n])
    for number in most_left[: max(0, LONGEST - sum(counts))]:
        counts[number] += 1
    return counts

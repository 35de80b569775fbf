"""What runs took beside what was predicted of them: a correction, and how far off it is. Pure arithmetic.

    seconds = scale x predicted + each x passes

`scale` is of what the prediction has, `each` of what a pass through a layer costs whatever its size. Both are the least
squares of relative errors, and never negative. The error is that of each run when the others alone correct it (leave
one out: https://en.wikipedia.org/wiki/Cross-validation_(statistics)).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_ERRORS = 2.0  # standard deviations of a bar
_BOTH = 4  # runs from which `each` is fitted too
_TOLD = 3  # runs from which their scatter says something


class Point(NamedTuple):
    """A run: seconds that were predicted, passes through layers, seconds that it took; none of them 0."""

    predicted: float
    passes: float
    seconds: float


class Line(NamedTuple):
    """The correction. `error`: the factor of an error bar, 1 for none; None where there are too few runs."""

    scale: float = 1.0
    each: float = 0.0
    error: float | None = None

    def seconds(self, predicted: float, passes: float) -> float:
        return self.scale * predicted + self.each * passes


def fit(points: Sequence[Point]) -> Line:
    """The correction of these runs; none without any."""
    both = len(points) >= _BOTH
    found = _least_squares(points, both)
    if len(points) < _TOLD:
        return found
    off = []
    for index, point in enumerate(points):
        others = _least_squares([*points[:index], *points[index + 1 :]], both)
        off.append(math.log(point.seconds / others.seconds(point.predicted, point.passes)))
    return found._replace(error=math.exp(_ERRORS * math.sqrt(sum(o * o for o in off) / len(off))))


def _least_squares(points: Sequence[Point], both: bool) -> Line:
    if not points:
        return Line()
    shares = [(p.predicted / p.seconds, p.passes / p.seconds) for p in points]
    uu, vv = sum(u * u for u, _ in shares), sum(v * v for _, v in shares)
    uv, u1, v1 = sum(u * v for u, v in shares), sum(u for u, _ in shares), sum(v for _, v in shares)
    alone = Line(scale=u1 / uu)
    whole = uu * vv - uv * uv
    if not both or whole <= 1e-12 * uu * vv:  # all runs alike
        return alone
    scale, each = (u1 * vv - v1 * uv) / whole, (v1 * uu - u1 * uv) / whole
    if each < 0:
        return alone
    return Line(scale=scale, each=each) if scale > 0 else Line(scale=0.0, each=v1 / vv)

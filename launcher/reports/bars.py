"""Stacked bars against a capacity, and how they look in a terminal.

Owns scales and shades; knows nothing of plans. As pictures they are drawn by pictures.py.

    group = bars.Group("memory per GPU", 80 * 10**9, (bars.Bar("zero1", {"parameters": 13 * 10**9}),))
    bars.text(group) -> lines
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import units

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHADES = "█▓▒░▚▞▪▫"
WIDTH = 32  # characters of a bar
# A bar that is longer than this many capacities is cut, so that the ones that fit can still be seen.
MOST = 2.0


@dataclass(frozen=True)
class Bar:
    """One bar: its parts in bytes, in the order of the group's other bars; `note` stands behind it."""

    name: str
    parts: Mapping[str, int]
    note: str = ""
    selected: bool = False

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Group:
    """Bars on one scale. `capacity` in bytes; None: not known."""

    title: str
    capacity: int | None
    bars: tuple[Bar, ...]

    @property
    def scale(self) -> float:
        """The bytes at the right end."""
        longest = max([bar.total for bar in self.bars] + [self.capacity or 0]) or 1
        return min(float(longest), MOST * self.capacity) if self.capacity else float(longest)

    @property
    def names(self) -> list[str]:
        """The parts of all bars, in order: the index of a name is its colour."""
        return list(dict.fromkeys(name for bar in self.bars for name in bar.parts))


def text(group: Group) -> Iterator[str]:
    """A title and a line per bar; `│` is the capacity, `»` the end of a bar that was cut."""
    capacity = group.capacity
    yield f"{group.title}{f' (│ = capacity, {units.gigabytes(capacity)})' if capacity else ''}"
    wide = max(len(bar.name) for bar in group.bars)
    for bar in group.bars:
        mark = "→" if bar.selected else " "
        over = f"over by {units.gigabytes(bar.total - capacity)}" if capacity and bar.total > capacity else ""
        notes = "; ".join(filter(None, [over, bar.note]))
        line = f"{mark} {bar.name:<{wide}} [{strip(group, bar)}] {units.gigabytes(bar.total):>8}  {notes}"
        yield line.rstrip()


def strip(group: Group, bar: Bar) -> str:
    """The bar itself, WIDTH characters."""
    cells, end = "", 0.0
    for shade, size in zip(SHADES, bar.parts.values(), strict=False):
        end += WIDTH * size / group.scale
        cells += shade * (round(min(end, WIDTH + 1)) - len(cells))
    if len(cells) > WIDTH:
        cells = cells[: WIDTH - 1] + "»"
    cells = cells.ljust(WIDTH, " ")
    if not group.capacity:
        return cells
    edge = min(round(WIDTH * group.capacity / group.scale), WIDTH)
    inside = cells[:edge].replace(" ", "·")
    return inside + cells[edge:] if edge == WIDTH else f"{inside}│{cells[edge + 1 :]}"

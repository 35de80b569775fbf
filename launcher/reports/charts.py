"""Lines over steps and stacked bars as SVG inside a page of HTML, and a line as a sketch in text.

Owns scales, ticks and colours; knows nothing of runs and plans. A page needs no script and no other file.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from launcher.reports.bars import Bar, Group

    Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 28  # margins
BARS, BAR_LEFT, BAR_RIGHT, BAR_TOP, ROW, FOOT = 760, 250, 100, 8, 24, 22  # the same for bars
MOST = 400  # points drawn of a line
# Okabe and Ito's colours, told apart with any kind of sight: https://jfly.uni-koeln.de/color/
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #8884; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181b; } }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1200px; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 0 0 .3rem; }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 1.5rem; }
figure { margin: 0; } svg { width: 100%; height: auto; }
text { fill: var(--ink); font-size: 11px; } .grid { stroke: var(--faint); }
figure p { margin: 0 0 .3rem -1em; } main.wide { grid-template-columns: 1fr; max-width: 900px; }
.capacity { stroke: var(--ink); stroke-width: 1.4; stroke-dasharray: 5 3; fill: none; }
.line { fill: none; stroke-width: 1.6; } pre { overflow-x: auto; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .4em 0 1em; border-radius: 2px; }
"""


@dataclass(frozen=True)
class Line:
    name: str
    points: Points


def colour(index: int) -> str:
    """The colour of a run, by its place."""
    return COLOURS[index % len(COLOURS)]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `wanted` of them."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) if step > 1e-9 else number * step for number in range(first, last + 1)]


def label(value: float) -> str:
    """A number in a few characters: 12.5k, 3G, 0.0003."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):g}{unit}"
    return f"{value:.6g}"


def thinned(points: Points, most: int = MOST) -> list[tuple[float, float]]:
    """At most `most` points: neighbours are averaged, the first and the last stay."""
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    size = math.ceil(len(inner) / (most - 2))
    groups = [inner[start : start + size] for start in range(0, len(inner), size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [points[0], *means, points[-1]]


def chart(title: str, lines: Sequence[Line], dots: Sequence[Points]) -> str:
    """A figure with a line for each run, and dots (evaluations) in the same colours."""
    every = [point for line in lines for point in line.points] + [point for group in dots for point in group]
    across = ticks(min(x for x, _ in every), max(x for x, _ in every))
    up = ticks(min(y for _, y in every), max(y for _, y in every))
    high, wide = HEIGHT - TOP - BOTTOM, WIDTH - LEFT - RIGHT

    def x(value: float) -> str:
        return f"{LEFT + (value - across[0]) / (across[-1] - across[0]) * wide:.1f}"

    def y(value: float) -> str:
        return f"{TOP + (up[-1] - value) / (up[-1] - up[0]) * high:.1f}"

    parts = [f'<path class="grid" d="M{LEFT} {y(v)}H{WIDTH - RIGHT}"/>' for v in up]
    parts += [f'<text x="{LEFT - 6}" y="{y(v)}" text-anchor="end" dy=".32em">{label(v)}</text>' for v in up]
    parts += [f'<text x="{x(v)}" y="{HEIGHT - 8}" text-anchor="middle">{label(v)}</text>' for v in across]
    for index, line in enumerate(lines):
        path = " ".join(f"{x(a)},{y(b)}" for a, b in thinned(line.points))
        name = html.escape(line.name)
        parts.append(
            f'<polyline class="line" stroke="{colour(index)}" points="{path}"><title>{name}</title></polyline>'
        )
    for index, group in enumerate(dots):
        for a, b in group:
            parts.append(
                f'<circle cx="{x(a)}" cy="{y(b)}" r="3.5" fill="{colour(index)}"><title>'
                f"held out, step {a:g}: {b:.4f}</title></circle>"
            )
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    return f"<figure><h2>{html.escape(title)}</h2>{drawing}</figure>"


def stacked(group: Group) -> str:
    """A figure with a bar a row, and the key of their parts above it."""
    names = group.names
    wide = BARS - BAR_LEFT - BAR_RIGHT
    high = BAR_TOP + ROW * len(group.bars) + FOOT

    def x(size: float) -> float:
        return BAR_LEFT + wide * min(size / group.scale, 1.0)

    foot = high - FOOT
    parts = [
        f'<path class="grid" d="M{x(v):.1f} {BAR_TOP}V{foot}"/><text x="{x(v):.1f}" y="{high - 6}" '
        f'text-anchor="middle">{units.gigabytes(v) if v else 0}</text>'
        for v in ticks(0, group.scale)
        if v <= group.scale
    ]
    for row, bar in enumerate(group.bars):
        parts.append(_row(bar, BAR_TOP + ROW * row, names, x, group.scale))
    if group.capacity:
        at = f"{x(group.capacity):.1f}"
        title = f"<title>there is {units.gigabytes(group.capacity)}</title>"
        parts.append(f'<path class="capacity" d="M{at} {BAR_TOP - 4}V{foot}">{title}</path>')
    caption = group.title + (f": {units.gigabytes(group.capacity)} (dashed)" if group.capacity else "")
    return (
        f"<figure><h2>{html.escape(caption)}</h2><p>{_key(names)}</p>"
        f'<svg viewBox="0 0 {BARS} {high}" role="img" aria-label="{html.escape(group.title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _key(names: Iterable[str]) -> str:
    """The names, each after its colour."""
    return "".join(
        f'<span class="key" style="background:{colour(index)}"></span>{html.escape(name)}'
        for index, name in enumerate(names)
    )


def _row(bar: Bar, top: int, names: list[str], x: Callable[[float], float], limit: float) -> str:
    """One bar with its name before it and its size behind it; each part says its size when it is pointed at."""
    middle, drawn, end = top + ROW / 2, [], 0.0
    for name, size in bar.parts.items():
        left, right = x(end), x(end + size)
        end += size
        if right - left > 0.05:
            title = html.escape(f"{bar.name}, {name}: {units.gigabytes(size)}")
            drawn.append(
                f'<rect x="{left:.1f}" y="{top + 4}" width="{right - left:.1f}" height="{ROW - 8}" '
                f'fill="{colour(names.index(name))}"><title>{title}</title></rect>'
            )
    weight = ' font-weight="bold"' if bar.marked else ""
    place = f'y="{middle}" dy=".32em"{weight}'
    cut = "» " if bar.total > limit else ""
    before = f'<text x="{BAR_LEFT - 8}" {place} text-anchor="end">{html.escape(bar.name)}</text>'
    behind = f'<text x="{x(bar.total) + 6:.1f}" {place}>{cut}{units.gigabytes(bar.total)}</text>'
    return "".join([before, *drawn, behind])


def page(
    title: str, names: Iterable[str], figures: Iterable[str], table: str, note: str = "", wide: bool = False
) -> str:
    """A whole page: a key of the colours, a `note` on how to read it, a table, the figures (`wide`: one a row)."""
    key = _key(names)
    main = '<main class="wide">' if wide else "<main>"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1><p>{'; '.join(filter(None, [key, html.escape(note)]))}</p>"
        f"<pre>{html.escape(table)}</pre>{main}{''.join(figures)}</main></body></html>\n"
    )


def sketch(values: Sequence[float], width: int = 16) -> str:
    """The curve in a few block characters, from its lowest to its highest value."""
    if not values:
        return "-"
    shown = [y for _, y in thinned([(0.0, v) for v in values], width)]
    low, high = min(shown), max(shown)
    scale = 7 / (high - low) if high > low else 0
    return "".join("▁▂▃▄▅▆▇█"[round((value - low) * scale)] for value in shown)

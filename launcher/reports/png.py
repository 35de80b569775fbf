"""Line charts and stacked bars as PNG, drawn by matplotlib: what charts.py draws as SVG.

Owns nothing but the drawing; matplotlib is an optional dependency (`pip install 'deepspeed-job-templates[pictures]'`).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import ToolMissingError
from launcher.reports import charts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.reports.bars import Group
    from launcher.reports.charts import Line, Points

_DOTS = 150  # an inch
_INK = "#222222"


def _figure(width: float, height: float) -> Any:
    """An empty figure that no window and no global state knows of. Raises ToolMissingError without matplotlib."""
    try:
        from matplotlib import figure
        from matplotlib.backends import backend_agg
    except ImportError:
        hint = "pip install matplotlib; --html needs nothing"
        raise ToolMissingError("--png needs matplotlib, which is not here", hint=hint) from None
    made = figure.Figure(figsize=(width, height), dpi=_DOTS, layout="constrained")
    backend_agg.FigureCanvasAgg(made)
    return made


def stacked(title: str, groups: Sequence[Group], note: str) -> bytes:
    """The bars of `groups` below one another. Raises ToolMissingError without matplotlib."""
    rows = [len(group.bars) + 2.2 for group in groups]
    made = _figure(11, 0.9 + 0.36 * sum(rows))
    made.suptitle(title, x=0.01, ha="left", fontweight="bold")
    axes = made.subplots(len(groups), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axis, group in zip(axes, groups, strict=True):
        _bars(axis, group)
    made.supxlabel(note, fontsize=8, color=_INK)
    return _png(made)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour)


def _bars(axis: Any, group: Group) -> None:
    names = group.names
    for row, bar in enumerate(group.bars):
        left = 0.0
        for name, size in bar.parts.items():
            if size:
                axis.barh(row, size, left=left, height=0.66, color=charts.colour(names.index(name)))
            left += size
        cut = "» " if bar.total > group.scale else ""
        at = min(float(bar.total), group.scale)
        weight = "bold" if bar.marked else "normal"
        axis.annotate(
            f"{cut}{units.gigabytes(bar.total)}",
            (at, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight=weight,
        )
    has = f": {units.gigabytes(group.capacity)} (dashed)" if group.capacity else ""
    axis.set_title(group.title + has, loc="left", fontsize=10, color=_INK, pad=22)
    handles = [_patch(charts.colour(i)) for i in range(len(names))]
    look = {"frameon": False, "fontsize": 8, "handlelength": 1.0, "handleheight": 1.0, "columnspacing": 1.2}
    axis.legend(
        handles, names, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0.2, ncols=len(names), **look
    )
    axis.set_yticks(range(len(group.bars)), [bar.name for bar in group.bars], fontsize=9)
    for label, bar in zip(axis.get_yticklabels(), group.bars, strict=True):
        label.set_fontweight("bold" if bar.marked else "normal")
    axis.set_ylim(len(group.bars) - 0.4, -0.6)
    axis.set_xlim(0, group.scale)
    marks = [v for v in charts.ticks(0, group.scale) if v <= group.scale]
    axis.set_xticks(marks, [units.gigabytes(v) if v else "0" for v in marks], fontsize=8)
    if group.capacity:
        axis.axvline(group.capacity, color=_INK, linestyle=(0, (5, 3)), linewidth=1.2)
    axis.grid(axis="x", color="#dddddd", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def lines(
    title: str, figures: Sequence[tuple[str, Sequence[Line], Sequence[Points]]], names: Sequence[str]
) -> bytes:
    """A chart for each (title, lines, dots), the lines of the runs `names` in their colours. Raises as `stacked`."""
    columns = min(2, len(figures))
    rows = -(-len(figures) // columns)
    made = _figure(5.6 * columns, 0.9 + 2.9 * rows)
    if len(names) > 1:
        handles = [_patch(charts.colour(index)) for index in range(len(names))]
        made.legend(handles, names, loc="outside upper left", ncols=4, frameon=False, fontsize=8)
    else:
        made.suptitle(title, x=0.01, ha="left", fontweight="bold")
    axes = made.subplots(rows, columns, squeeze=False).flatten()
    for axis, (name, curves, dots) in zip(axes, figures, strict=False):
        for index, line in enumerate(curves):
            thin = charts.thinned(line.points)
            axis.plot([x for x, _ in thin], [y for _, y in thin], color=charts.colour(index), linewidth=1.3)
        for index, group in enumerate(dots):
            axis.scatter([x for x, _ in group], [y for _, y in group], s=16, color=charts.colour(index))
        axis.set_title(name, loc="left", fontsize=10, color=_INK)
        axis.yaxis.set_major_formatter(lambda value, _: charts.label(value))
        axis.xaxis.set_major_formatter(lambda value, _: charts.label(value))
        axis.tick_params(labelsize=8)
        axis.grid(color="#dddddd", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(figures) :]:
        axis.set_visible(False)
    return _png(made)

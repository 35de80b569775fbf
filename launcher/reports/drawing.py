"""Bars and curves drawn by matplotlib (the extra `pictures`), as PNG, SVG or PDF.

Owns colours, fonts and axes; what is drawn is decided by estimate.py and curves.py.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import ToolMissingError
from launcher.runs import hours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from launcher.reports.bars import Group
    from launcher.reports.curves import Chart
    from launcher.reports.life import Life

    Shares = tuple[str, Mapping[str, float]]  # a run, and its hours by what they went into

# Okabe and Ito's colours, told apart with any kind of colour vision: https://jfly.uni-koeln.de/color/
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a", "#f0e442")
DASHES = ("-", "--", ":", "-.")  # of the lines that share a colour
HATCHES = ("", "///", "...")  # of the bars that share a colour
INK, GRID = "#222222", "#dddddd"
STYLE = {
    "text.parse_math": False,  # `$` in a name is a dollar sign
    "svg.fonttype": "none",  # text stays text: it can be searched and copied
    "svg.hashsalt": "launcher",  # the same picture has the same bytes
    "font.size": 9,
    "text.color": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def require() -> None:
    """Raise ToolMissingError without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ToolMissingError(
            "--plot needs matplotlib, which is not installed", hint="pip install 'matplotlib>=3.8'"
        )


def encoded(draw: Callable[[], Any], kinds: Iterable[str]) -> dict[str, bytes]:
    """The figure that `draw` makes, as each of the `kinds` (png, svg, pdf).

    Raises ToolMissingError without matplotlib.
    """
    require()
    # where HOME cannot be written it keeps its list of fonts in a temporary folder, which is nobody's concern
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character that the font lacks is drawn as a box
        figure = draw()
        return {kind: _content(figure, kind) for kind in kinds}


def _content(figure: Any, kind: str) -> bytes:
    file = io.BytesIO()
    # without the time of writing, so the same picture has the same bytes
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(file, format=kind, dpi=150, metadata=dates.get(kind))
    return file.getvalue()


def _figure(title: str, width: float, height: float) -> Any:
    """An empty figure that no window and no global state knows of; inches."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    if title:
        figure.suptitle(textwrap.fill(title, int(width * 10)), x=0.01, ha="left", fontweight="bold")
    return figure


def memory(title: str, groups: Sequence[Group]) -> Any:
    """The bars of `groups`, one group below the other."""
    rows = [len(group.bars) + 2.6 for group in groups]
    figure = _figure(title, 11, 0.9 + 0.34 * sum(rows))
    all_axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axes, group in zip(all_axes, groups, strict=True):
        _stack(axes, group)
    figure.supxlabel("→ and bold: selected configuration; dashed line: capacity", fontsize=8)
    return figure


def _stack(axes: Any, group: Group) -> None:
    rows, names = range(len(group.bars)), group.names
    unit, size = ("GB", 1e9) if group.scale >= 1e9 else ("MB", 1e6)
    lefts = [0.0] * len(rows)
    for index, name in enumerate(names):
        sizes = [bar.parts.get(name, 0) / size for bar in group.bars]
        if any(sizes):
            axes.barh(rows, sizes, left=lefts, height=0.66, color=COLOURS[index % len(COLOURS)], label=name)
        lefts = [left + size for left, size in zip(lefts, sizes, strict=True)]
    if group.capacity:
        label = f"capacity, {units.gigabytes(group.capacity)}"
        axes.axvline(
            group.capacity / size, color=INK, linestyle=(0, (5, 3)), linewidth=1.2, label=label, clip_on=False
        )
    for row, bar in zip(rows, group.bars, strict=True):
        end = min(bar.total, group.scale) / size
        cut = "» " if bar.total > group.scale else ""
        axes.annotate(
            f"{cut}{units.gigabytes(bar.total)}",
            (end, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if bar.selected else "normal",
        )
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=8, handlelength=2, columnspacing=1.2)
    axes.set_title(group.title, pad=24)
    axes.set_yticks(rows, [f"{'→ ' if bar.selected else ''}{bar.name}" for bar in group.bars])
    for label, bar in zip(axes.get_yticklabels(), group.bars, strict=True):
        label.set_fontweight("bold" if bar.selected else "normal")
    axes.set_ylim(len(group.bars) - 0.4, -0.6)
    axes.set_xlim(0, group.scale / size)
    axes.set_xlabel(unit)
    axes.grid(axis="x")


def times(title: str, measured: Sequence[tuple[str, float, bool]]) -> Any:
    """A bar for each of (name, seconds, whether it is the best)."""
    figure = _figure(title, 11, 1.2 + 0.3 * len(measured))
    axes, rows = figure.subplots(), range(len(measured))
    colours = [COLOURS[1 if best else 0] for *_, best in measured]
    axes.barh(rows, [seconds for _, seconds, _ in measured], height=0.66, color=colours)
    axes.set_yticks(rows, [f"{'→ ' if best else ''}{name}" for name, _, best in measured])
    axes.set_ylim(len(measured) - 0.4, -0.6)
    axes.set_xlabel("seconds of a step, the same global batch for all")
    axes.grid(axis="x")
    return figure


def runs(
    title: str,
    names: Sequence[str],
    charts: Sequence[Chart],
    shares: Sequence[Shares] = (),
    life: Life | None = None,
) -> Any:
    """Each chart with a line for each run, in the run's colour; the key of several runs stands above them.

    Below them a bar for each of `shares`: the GPU hours of a run by what they went into; and the `life` of one run.
    """
    from matplotlib.lines import Line2D

    columns = min(2, len(charts)) or 2
    rows = -(-len(charts) // columns)
    longest = max(map(len, names))
    key_columns = max(1, int(columns * 80 / (longest + 6)))
    key_rows = -(-len(names) // key_columns) if len(names) > 1 and charts else 0
    below: list[tuple[Callable[[Any], None], float]] = []
    if shares:
        below.append((lambda axes: _shares(axes, shares), 1.5 + 0.34 * len(shares)))
    if life:
        below.append((lambda axes: _timeline(axes, life), 1.8))
        below += [(lambda axes: _heat(axes, life), 2.4)] if life.own else []
    height = 0.6 + 0.2 * key_rows + 3 * rows + sum(inches for _, inches in below)
    figure = _figure("" if key_rows else title, 5.6 * columns, height)
    if key_rows:
        handles = [Line2D([], [], **_look(index)) for index in range(len(names))]
        figure.legend(handles, names, loc="outside upper left", ncols=key_columns)
    ratios = [3] * rows + [inches for _, inches in below]
    grid = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    for place, chart in enumerate(charts):
        _chart(figure.add_subplot(grid[place // columns, place % columns]), chart)
    for number, (draw, _) in enumerate(below):
        draw(figure.add_subplot(grid[rows + number, :]))
    return figure


def _timeline(axes: Any, life: Life) -> None:
    """What the run did when: a bar in the shares' colours, and its events above."""
    names = list(hours.SHARES.values())
    for name, spans in life.spans.items():
        axes.broken_barh(spans, (0, 0.8), **_share_look(names.index(name)))
    for (name, moments), marker in zip(life.marks.items(), "vXso", strict=False):
        axes.scatter(moments, [1.1] * len(moments), marker=marker, s=18, color=INK, label=name)
    if life.marks:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(life.marks))
    axes.set_ylim(0, 1.3)
    axes.set_yticks([])
    axes.set_xlabel("hours since the run had its hosts, in the colours above")


def _heat(axes: Any, life: Life) -> None:
    """A row a rank: dark is slower than the median of all ranks at that moment."""
    first, last = life.moments[0], life.moments[-1]
    width = (last - first) / len(life.moments) or 1 / 3600  # of one moment alone a second
    mesh = axes.pcolormesh(
        [*life.moments, last + width],
        [rank - 0.5 for rank in range(len(life.own) + 1)],
        life.own,
        cmap="cividis_r",
        vmin=0.8,
        vmax=2.0,
        rasterized=True,
    )
    axes.figure.colorbar(mesh, ax=axes, label="over the median", pad=0.01)
    axes.set_title("Time that each rank needs in a step before it waits for the others")
    axes.set_ylabel("rank")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(len(life.own) - 0.5, -0.5)
    axes.set_xlabel("hours since the run had its hosts")


def _share_look(index: int) -> dict[str, Any]:
    """Colour and pattern of a share, by its place in SHARES."""
    return {  # not `color`, which in broken_barh is that of the pattern's lines too
        "facecolor": COLOURS[index % len(COLOURS)],
        "hatch": HATCHES[index // len(COLOURS)],
        "edgecolor": "white",
        "linewidth": 0,
    }


def _shares(axes: Any, shares: Sequence[Shares]) -> None:
    """A bar a run; what no run has is not in the key."""
    lefts = [0.0] * len(shares)
    names = list(dict.fromkeys(name for _, parts in shares for name in parts))
    for index, name in enumerate(names):
        amounts = [parts[name] for _, parts in shares]
        if any(amounts):
            axes.barh(range(len(shares)), amounts, left=lefts, height=0.66, label=name, **_share_look(index))
        lefts = [left + more for left, more in zip(lefts, amounts, strict=True)]
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, handlelength=2, columnspacing=1.2)
    axes.set_yticks(range(len(shares)), [name for name, _ in shares])
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_xlabel("GPU hours, by what they went into")
    axes.grid(axis="x")


def _look(run: int) -> dict[str, Any]:
    """Colour and dashes of a run, by its index."""
    return {"color": COLOURS[run % len(COLOURS)], "linestyle": DASHES[run // len(COLOURS) % len(DASHES)]}


def _chart(axes: Any, chart: Chart) -> None:
    for run, points in enumerate(chart.lines):
        marker = "." if len(points) == 1 else ""
        axes.plot([x for x, _ in points], [y for _, y in points], **_look(run), marker=marker, linewidth=1.3)
    for run, points in enumerate(chart.dots):
        color = COLOURS[run % len(COLOURS)]
        axes.scatter([x for x, _ in points], [y for _, y in points], s=16, color=color, zorder=3)
    if any(chart.dots):
        axes.scatter([], [], s=16, color=INK, label="validation loss")
        axes.legend(loc="upper right")
    axes.set_title(chart.title)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel(chart.unit)
    axes.ticklabel_format(useOffset=False)
    axes.grid()

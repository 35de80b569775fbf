"""A picture of learning curves beside each other: a chart for each stage, a line for each program.

Owns how it looks: a line is the mean over the seeds, the band around it reaches from the lowest to the highest.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from launcher.reports import drawing
from tests.bench import toy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Curves = Mapping[str, Mapping[str, Sequence[Sequence[float]]]]  # stage → program → seeds → steps

COLUMNS = 3


def write(path: Path, curves: Curves) -> None:
    """Draw the curves to a file whose name ends in .svg, .png or .pdf."""
    kind = path.suffix.removeprefix(".")
    path.write_bytes(drawing.encoded(lambda: _figure(curves), [kind])[kind])


def _figure(curves: Curves) -> Any:
    from matplotlib.figure import Figure

    lines = -(-len(curves) // COLUMNS)
    figure: Any = Figure(figsize=(10.5, 2.9 * lines), layout="constrained")
    charts = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for axes, (stage, programs) in zip(charts, curves.items(), strict=False):
        for colour, (program, seeds) in zip(drawing.COLOURS, programs.items(), strict=False):
            by_step = [*zip(*seeds, strict=True)]
            steps = range(1, len(by_step) + 1)
            axes.plot(steps, [*map(statistics.fmean, by_step)], color=colour, linewidth=1.3, label=program)
            axes.fill_between(
                steps, [*map(min, by_step)], [*map(max, by_step)], color=colour, alpha=0.15, linewidth=0
            )
        axes.set_title(f"{stage}: {toy.STAGES[stage].figure}")
        axes.set_xlabel("optimizer steps")
        axes.grid()
        axes.legend()
    for axes in charts[len(curves) :]:
        axes.set_visible(False)
    return figure

"""What runs measured, step by step: summed up in a table or as JSON, and which charts there are.

Owns the figures and their units; metrics.jsonl is read by runs.metrics, charts are drawn by pictures.py.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import units
from launcher.errors import RunNotFoundError
from launcher.reports import tables
from launcher.runs import metrics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Points = Sequence[tuple[float, float]]  # (optimizer step, value)


class Figure(NamedTuple):
    """A figure of metrics.jsonl as a chart shows it: `unit` of `scale` times the value."""

    title: str
    unit: str
    scale: float = 1.0


# key of metrics.jsonl → its chart; docker/workloads/metrics.py says what each is
FIGURES = {
    "loss": Figure("Training loss", "mean over the global batch"),
    "tokens_per_second": Figure("Throughput", "tokens per second"),
    "memory_bytes": Figure("Peak memory of rank 0", "GB", 1e-9),
    "lr": Figure("Learning rate", "learning rate"),
    "grad_norm": Figure("Gradient norm", "2-norm, before clipping"),
    "reward": Figure("Reward", "mean over the global batch"),
    "accuracy": Figure("Accuracy", "share of pairs"),
    "margin": Figure("Reward margin", "chosen − rejected"),
    "kl": Figure("KL to the reference policy", "nats"),
}
LEGEND = "x-axis: optimizer steps; dots: validation loss"
_HEAD = (
    "RUN",
    "STEPS",
    "FIRST LOSS",
    "LAST LOSS",
    "VALIDATION",
    "TOKENS/S",
    "MEMORY",
    "TIME",
    "LOSS BY STEP",
)
_POINTS = 400  # drawn of a line


@dataclass(frozen=True)
class Curves:
    """The steps of one run in order, each once, and its evaluations as (step, validation loss)."""

    name: str
    steps: tuple[metrics.Record, ...]
    evaluations: tuple[tuple[int, float], ...]

    def points(self, key: str) -> tuple[tuple[int, float], ...]:
        """(step, value) of a figure, where it was measured."""
        return tuple((s.step, s.figures[key]) for s in self.steps if key in s.figures)

    def values(self, key: str) -> list[float]:
        """The values of a figure, where it was measured."""
        return [value for _, value in self.points(key)]


class Chart(NamedTuple):
    """A figure of several runs: a line for each run, and dots (evaluations), both possibly empty."""

    title: str
    unit: str
    lines: list[Points]
    dots: list[Points]


def read(name: str, folder: Path) -> Curves:
    """The curves of the run in `folder`, without steps where it has measured nothing yet.

    A step that was repeated counts once, as it was written last.
    """
    records = metrics.kept(metrics.read(folder)[0])
    latest = {record.step: record for record in metrics.steps(records)}
    evaluations = {
        record.step: record.figures["loss"]
        for record in metrics.events(records, "eval")
        if "loss" in record.figures
    }
    steps = tuple(latest[step] for step in sorted(latest))
    return Curves(units.printable(name), steps, tuple(sorted(evaluations.items())))


def nothing(name: str, folder: Path) -> RunNotFoundError:
    """What to say of a run of which nothing is known."""
    return RunNotFoundError(
        f"{name} has no steps in {folder / metrics.FILE}",
        hint="it has not started, or its workload does not train",
    )


def summary(run: Curves) -> dict[str, Any]:
    """First and last figures of a run; None for what it has not measured."""
    losses, rewards, times = (run.values(key) for key in ("loss", "reward", "time"))
    speeds, memory = run.values("tokens_per_second"), run.values("memory_bytes")
    return {
        "run": run.name,
        "steps": run.steps[-1].step if run.steps else None,
        "loss_first": losses[0] if losses else None,
        "loss_last": statistics.fmean(losses[-10:]) if losses else None,
        "eval_loss": run.evaluations[-1][1] if run.evaluations else None,
        "reward_first": rewards[0] if rewards else None,
        "reward_last": statistics.fmean(rewards[-10:]) if rewards else None,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "memory_bytes": max(memory) if memory else None,
        "seconds": max(times) - min(times) if times else None,
    }


def text(runs: Sequence[Curves]) -> str:
    """A table of the runs for a person, each with a sketch of its loss."""
    rows = []
    for run in runs:
        figures = summary(run)
        speed, memory, seconds = (figures[k] for k in ("tokens_per_second", "memory_bytes", "seconds"))
        rows.append(
            (
                run.name,
                "-" if figures["steps"] is None else str(figures["steps"]),
                *(tables.number(figures[key]) for key in ("loss_first", "loss_last", "eval_loss")),
                tables.number(speed, ",.0f"),
                units.gigabytes(memory) if memory else "-",
                units.brief(seconds) if seconds is not None else "-",
                sketch(run.values("loss")),
            )
        )
    return tables.table(rows, _HEAD)


def data(run: Curves) -> dict[str, Any]:
    """Summary and points, machine-readable."""
    points = {key: run.points(key) for key in FIGURES if run.points(key)}
    return {**summary(run), "points": points, "evaluations": run.evaluations}


def charts(runs: Sequence[Curves]) -> list[Chart]:
    """A chart of every figure that any of the runs measured."""
    return [
        Chart(
            figure.title,
            figure.unit,
            [[(x, y * figure.scale) for x, y in thinned(run.points(key), _POINTS)] for run in runs],
            [run.evaluations if key == "loss" else () for run in runs],
        )
        for key, figure in FIGURES.items()
        if any(run.points(key) for run in runs)
    ]


def thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """At most `most` points: neighbours are averaged, the first and the last stay."""
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    size = math.ceil(len(inner) / (most - 2))
    groups = [inner[start : start + size] for start in range(0, len(inner), size)]
    means = [(statistics.fmean(x for x, _ in g), statistics.fmean(y for _, y in g)) for g in groups]
    return [points[0], *means, points[-1]]


def sketch(values: Sequence[float], width: int = 16) -> str:
    """The curve in a few block characters, from its lowest to its highest value."""
    if not values:
        return "-"
    shown = [y for _, y in thinned([(0.0, v) for v in values], width)]
    low, high = min(shown), max(shown)
    scale = 7 / (high - low) if high > low else 0
    return "".join("▁▂▃▄▅▆▇█"[round((value - low) * scale)] for value in shown)

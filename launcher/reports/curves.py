"""What runs measured, as curves: read from metrics.jsonl, summed up in a table, or drawn in one HTML file.

Owns which figures there are and how they are summed up; how a curve is drawn is charts.py's.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import RunNotFoundError
from launcher.reports import charts, tables
from launcher.runs import logs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# key of metrics.jsonl → title; docker/workloads/metrics.py says what each is
FIGURES = {
    "loss": "Loss (nats per token)",
    "tokens_per_second": "Throughput (tokens per second)",
    "memory_bytes": "Peak memory of rank 0 (bytes)",
    "lr": "Learning rate",
    "grad_norm": "Norm of the gradient",
    "reward": "Mean reward",
    "accuracy": "Accuracy",
    "margin": "Margin between the better and the worse answer",
    "kl": "Distance to the start (KL)",
}


NOTE = "steps along the foot, dots are held-out data"


@dataclass(frozen=True)
class Curves:
    """The steps of one run in order, each once, and its evaluations as (step, loss)."""

    name: str
    steps: tuple[dict[str, Any], ...]
    evaluations: tuple[tuple[int, float], ...]

    def points(self, key: str) -> tuple[tuple[float, float], ...]:
        """(step, value) of a figure, where it was measured."""
        return tuple((s["step"], s[key]) for s in self.steps if isinstance(s.get(key), (int, float)))


def read(name: str, folder: Path) -> Curves:
    """The curves of the run in `folder`. A step that was repeated counts once, as it went last.

    Raises RunNotFoundError when it has measured nothing yet.
    """
    records, _ = logs.metrics(folder)
    latest = {
        r["step"]: r for r in records if "event" not in r and isinstance(r.get("step"), int) and "loss" in r
    }
    evaluated = {
        r["step"]: r["loss"] for r in records if r.get("event") == "eval" and r.get("loss") is not None
    }
    if not latest:
        raise RunNotFoundError(
            f"{name} has no steps in {folder / 'metrics.jsonl'}",
            hint="it has not begun, or its workload does not train",
        )
    return Curves(name, tuple(latest[step] for step in sorted(latest)), tuple(sorted(evaluated.items())))


def summary(run: Curves) -> dict[str, Any]:
    """First and last figures of a run; None for what it does not measure."""
    losses = [value for _, value in run.points("loss")]
    speeds = [value for _, value in run.points("tokens_per_second")]
    memory = [value for _, value in run.points("memory_bytes")]
    times = [value for _, value in run.points("time")]
    rewards = [value for _, value in run.points("reward")]
    return {
        "run": run.name,
        "steps": run.steps[-1]["step"],
        "loss_first": losses[0] if losses else None,
        "loss_last": statistics.fmean(losses[-10:]) if losses else None,
        "eval_loss": run.evaluations[-1][1] if run.evaluations else None,
        "reward_first": rewards[0] if rewards else None,
        "reward_last": statistics.fmean(rewards[-10:]) if rewards else None,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "memory_bytes": max(memory) if memory else None,
        "seconds": times[-1] - times[0] if times else None,
    }


def text(runs: Sequence[Curves]) -> str:
    """A table of the runs for a person, each with a sketch of its loss."""
    rows = []
    for run in runs:
        found = summary(run)
        speed, memory, seconds = (found[k] for k in ("tokens_per_second", "memory_bytes", "seconds"))
        rows.append(
            (
                run.name,
                str(found["steps"]),
                *(_number(found[key]) for key in ("loss_first", "loss_last", "eval_loss")),
                f"{speed:,.0f}" if speed else "-",
                units.gigabytes(memory) if memory else "-",
                units.brief(seconds) if seconds is not None else "-",
                charts.sketch([value for _, value in run.points("loss")]),
            )
        )
    return tables.table(
        rows, ("RUN", "STEPS", "LOSS", "→ LAST", "EVAL", "TOKENS/S", "MEMORY", "TIME", "LOSS OVER STEPS")
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def as_json(runs: Iterable[Curves]) -> str:
    """Summaries and points for a program."""
    made = [
        {
            **summary(r),
            "points": {k: r.points(k) for k in FIGURES if r.points(k)},
            "evaluations": r.evaluations,
        }
        for r in runs
    ]
    return json.dumps(made, indent=2, ensure_ascii=False)


def drawn(runs: Sequence[Curves]) -> list[tuple[str, list[charts.Line], list[charts.Points]]]:
    """(title, a line for each run, its evaluations) of every figure that any of the runs has."""
    made = []
    for key, title in FIGURES.items():
        lines = [charts.Line(run.name, run.points(key)) for run in runs]
        dots: list[charts.Points] = [run.evaluations if key == "loss" else () for run in runs]
        if any(line.points for line in lines):
            made.append((title, lines, dots))
    return made


def html(runs: Sequence[Curves]) -> str:
    """One page that stands alone: a chart for every figure that any of the runs has, the runs in one colour each."""
    figures = [charts.chart(*one) for one in drawn(runs)]
    names = [run.name for run in runs]
    return charts.page(" · ".join(names), names, figures, text(runs), NOTE)

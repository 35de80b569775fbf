"""compare: what differs between two runs, and the first step where their losses part.

Owns the table and the JSON; what differs is runs/differences.py's to find.
"""

from __future__ import annotations

import json
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import units
from launcher.reports import tables
from launcher.runs import differences, metrics

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from launcher.runs.differences import Difference

_LONGEST = 40  # characters of a value in the table


class Curves(NamedTuple):
    """The training losses of two runs. `common`: steps that both have measured; `parts`: the first that differs."""

    common: int
    last: int | None
    parts: int | None
    losses: tuple[float, float] | None
    largest: float | None  # of the relative differences


class Comparison(NamedTuple):
    names: tuple[str, str]
    differences: list[Difference]
    curves: Curves
    without_lock: list[str]  # runs of which only the plan is known


def read(runs: Mapping[str, Path]) -> Comparison:
    """The comparison of two runs, by name and folder. Raises RunNotFoundError where there is no plan.json."""
    (one, first), (other, second) = runs.items()
    made = {one: differences.read(first), other: differences.read(second)}
    found = differences.between(made[one], made[other])
    without = [name for name in (one, other) if not made[name].lock]
    return Comparison((one, other), found, curves(losses(first), losses(second)), without)


def losses(folder: Path) -> dict[int, float]:
    """Step → training loss; of a step that was repeated the last one."""
    records = metrics.steps(metrics.kept(metrics.read(folder)[0]))
    return {record.step: record.figures["loss"] for record in records if "loss" in record.figures}


def curves(one: Mapping[int, float], other: Mapping[int, float]) -> Curves:
    """Where two curves part: bit for bit, at the first step that both have measured with another loss."""
    common = sorted(set(one) & set(other))
    parts = next((step for step in common if one[step] != other[step]), None)
    apart = [abs(one[s] - other[s]) / max(abs(one[s]), abs(other[s]), 1e-30) for s in common]
    return Curves(
        common=len(common),
        last=common[-1] if common else None,
        parts=parts,
        losses=None if parts is None else (one[parts], other[parts]),
        largest=max(apart) if apart else None,
    )


def text(comparison: Comparison) -> str:
    """For a person: a line for each thing that differs, then the curves."""
    rows = [(d.what, *_cells(d.one, d.other)) for d in comparison.differences]
    lines = [tables.table(rows, ("WHAT DIFFERS", *comparison.names))] if rows else ["nothing differs"]
    lines += [f"{name} has no lock.json: only its plan is compared" for name in comparison.without_lock]
    return "\n".join([*lines, _said(comparison.curves)])


def _cells(one: Any, other: Any) -> list[str]:
    """Both values, of long ones the part where they differ."""
    shown = [
        "-" if v is None else v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)
        for v in (one, other)
    ]
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(*shown, strict=False))
    same = sum(1 for _ in alike)
    return [_cut(text, max(0, same - _LONGEST // 2)) for text in shown]


def _cut(text: str, start: int) -> str:
    if len(text) <= _LONGEST:
        return text
    end = start + _LONGEST
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _said(curves: Curves) -> str:
    if not curves.common:
        return "loss: no step that both have measured"
    if curves.losses is None:
        return f"loss: the same in all {curves.common} steps that both have measured, to step {curves.last}"
    one, other = units.distinct(*curves.losses)
    most = curves.largest or 0.0
    share = f"{most:.2%}" if most >= 1e-4 else f"{most:.1e}"
    return (
        f"loss: parts at step {curves.parts}: {one} and {other}; at most {share} apart to step {curves.last}"
    )


def as_json(comparison: Comparison) -> str:
    """The same, machine-readable."""
    curves = comparison.curves
    data = {
        "runs": list(comparison.names),
        "differences": [{"what": d.what, "one": d.one, "other": d.other} for d in comparison.differences],
        "without_lock": comparison.without_lock,
        "loss": {
            "steps": curves.common,
            "last_step": curves.last,
            "parts_at_step": curves.parts,
            "one": curves.losses[0] if curves.losses else None,
            "other": curves.losses[1] if curves.losses else None,
            "largest_relative_difference": curves.largest,
        },
    }
    return tables.dump(data)

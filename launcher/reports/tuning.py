"""A tuning run as a table, as JSON and as a picture: each candidate, what the plan says of it, and how it did.

Owns rows and words; results are read by runs/trials.py, and which is the best docker/halving.py says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from launcher import units
from launcher.reports import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.planning.tuning_record import Entry, LeftOut, Tuning
    from launcher.runs.trials import Found, Trial

BEST, WAITS, TRIED, NOT_TRIED = "best", "waits", "tried", "not tried"
_HEAD = ("CANDIDATE", "BY PLAN", "AT BEST", "STEPS", "S/STEP", "TOKENS/S", "MEMORY", "RESULT")


class Row(NamedTuple):
    """A candidate; None for what is not known. `result`: a word, `why`: the reason where there is one."""

    name: str
    fits: bool | None  # by the plan
    planned: int | None  # bytes of a rank
    capacity: int | None
    bound: float | None  # seconds of a step at least
    steps: int | None
    step_seconds: float | None
    tokens_per_second: float | None
    memory: float | None
    result: str
    why: str


def planned(tuning: Tuning) -> list[Row]:
    """Before the run: those that are tried, then those that are not."""
    return [_row(e, None, TRIED, "") for e in tuning.trials] + [_left(e) for e in tuning.left_out]


def found(run: Found) -> list[Row]:
    """What the run has found out: the best first, then those that failed, wait, or were not tried."""
    latest: dict[int, Trial] = {}
    for ended in sorted(run.trials, key=lambda t: t.steps):
        latest[ended.trial] = ended
    order = run.ranked
    failed = [number for number in latest if number not in order]
    left = [n for n in range(len(run.tuning.trials)) if n not in latest]
    rows = []
    for number in [*order, *failed, *left]:
        trial, hopeless = latest.get(number), run.hopeless(number)
        result = trial.result if trial else NOT_TRIED if hopeless else WAITS
        if order[:1] == [number] and run.settled:
            result = BEST
        why = trial.why if trial else hopeless
        rows.append(_row(run.tuning.trials[number], trial, result, why))
    return rows + [_left(entry) for entry in run.tuning.left_out]


def _row(entry: Entry, trial: Trial | None, result: str, why: str) -> Row:
    return Row(
        name=entry.name,
        fits=None if entry.memory is None else True,
        planned=entry.memory,
        capacity=entry.capacity,
        bound=entry.bound,
        steps=trial.steps if trial else None,
        step_seconds=trial.step_seconds if trial else None,
        tokens_per_second=trial.tokens_per_second if trial and trial.step_seconds else None,
        memory=trial.memory if trial else None,
        result=result,
        why=why,
    )


def _left(entry: LeftOut) -> Row:
    unmeasured = dict.fromkeys(("steps", "step_seconds", "tokens_per_second", "memory"))
    facts = {"fits": entry.fits, "planned": entry.memory, "capacity": entry.capacity, "bound": entry.bound}
    return Row(name=entry.name, **facts, **unmeasured, result=NOT_TRIED, why=entry.why)  # type: ignore[arg-type]


def text(rows: Sequence[Row]) -> str:
    """A table, without the columns of which nothing is known."""
    columns = zip(_HEAD, *map(_cells, rows), strict=True)
    known = [column for column in columns if set(column[1:]) != {"-"}]
    head, *cells = zip(*known, strict=True)
    return tables.table(cells, head)


def _cells(row: Row) -> tuple[str, ...]:
    fits = "-" if row.planned is None else units.gigabytes(row.planned)
    if row.fits is not None and (row.capacity is not None or not row.fits):
        fits += " fits" if row.fits else " does not fit"
    return (
        row.name,
        fits,
        "-" if row.bound is None else f"{row.bound:.3g} s",
        str(row.steps or "-"),
        tables.number(row.step_seconds, ".4g"),
        tables.number(row.tokens_per_second, ",.0f"),
        "-" if row.memory is None else units.gigabytes(row.memory),
        f"{row.result}: {row.why}" if row.why else row.result,
    )


def data(rows: Sequence[Row], run: str | None = None, done: bool = False, job: str | None = None) -> str:
    """JSON: the run, whether nothing is left to try, the job file that was written, and the candidates."""
    trials = [
        {
            "candidate": row.name,
            "fits": row.fits,
            "planned_bytes": row.planned,
            "capacity_bytes": row.capacity,
            "bound_seconds": row.bound,
            "steps": row.steps,
            "step_seconds": row.step_seconds,
            "tokens_per_second": row.tokens_per_second,
            "memory_bytes": row.memory,
            "result": row.result,
            "why": row.why,
        }
        for row in rows
    ]
    return tables.dump({"run": run, "done": done, "job": job, "trials": trials})

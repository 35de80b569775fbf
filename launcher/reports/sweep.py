"""What the runs of a sweep measured: a record a run, as a table or as JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from launcher import schedulers
from launcher.errors import RunNotFoundError
from launcher.reports import tables
from launcher.runs import metrics, record
from launcher.runs.status import Status

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from launcher.runs.record import Run
    from launcher.runs.sweeps import Sweep


def results(sweep: Sweep) -> list[dict[str, Any]]:
    """A record a run: run, settings, state, step, loss, eval_loss, reward, tokens_per_second; None: not measured.

    A run whose folder was deleted is UNKNOWN.
    """
    runs = {name: _find(sweep.folder.parent, name) for name in sweep.runs}
    known = [run for run in runs.values() if run]
    states = {run.id: now for run, now in zip(known, schedulers.statuses(known), strict=True)}
    return [
        {
            "run": name,
            "settings": dict(setting.partition("=")[::2] for setting in point),
            "state": states.get(name, Status("UNKNOWN")).state,
            **_measured(sweep.folder.parent / name),
        }
        for name, point in zip(sweep.runs, sweep.points, strict=True)
    ]


def _find(runs: Path, name: str) -> Run | None:
    try:
        return record.find(runs, name)
    except RunNotFoundError:
        return None


def _measured(folder: Path) -> dict[str, Any]:
    """The last figures of the run in `folder`."""
    records = metrics.kept(metrics.read(folder)[0])
    steps, evaluations = metrics.steps(records), metrics.events(records, "eval")
    last = steps[-1].figures if steps else {}
    return {
        "step": steps[-1].step if steps else None,
        "loss": last.get("loss"),
        "eval_loss": evaluations[-1].figures.get("loss") if evaluations else None,
        "reward": last.get("reward"),
        "tokens_per_second": last.get("tokens_per_second"),
    }


def as_json(results: Sequence[dict[str, Any]]) -> str:
    """The results, machine-readable."""
    return tables.dump(list(results))


def text(results: Sequence[dict[str, Any]]) -> str:
    """A table, the best run first: by the reward where one was measured, as the loss of a policy says nothing.

    Else by the lowest loss: the validation loss where it was measured.
    """
    keys = list(dict.fromkeys(key for result in results for key in result["settings"]))
    rewarded = any(result["reward"] is not None for result in results)
    rows = [
        (
            *(result["settings"].get(key, "-") for key in keys),
            result["state"],
            str(result["step"] or "-"),
            *([tables.number(result["reward"])] if rewarded else []),
            tables.number(result["loss"]),
            tables.number(result["eval_loss"]),
            tables.number(result["tokens_per_second"], ",.0f"),
            result["run"],
        )
        for result in sorted(results, key=_reward if rewarded else _loss)
    ]
    reward = ("REWARD",) if rewarded else ()
    return tables.table(rows, (*keys, "STATE", "STEP", *reward, "LOSS", "VALIDATION", "TOKENS/S", "RUN"))


def _reward(result: dict[str, Any]) -> float:
    """The highest comes first."""
    return math.inf if result["reward"] is None else -result["reward"]


def _loss(result: dict[str, Any]) -> float:
    known = (loss for key in ("eval_loss", "loss") if (loss := result[key]) is not None)
    return next(known, math.inf)

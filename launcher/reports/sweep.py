"""What the runs of a sweep measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import schedulers
from launcher.runs import logs, record

if TYPE_CHECKING:
    from launcher.runs.sweeps import Sweep


def results(sweep: Sweep) -> list[dict[str, Any]]:
    """A record a run: run, settings, state, step, loss, eval_loss, tokens_per_second; None for what is not there."""
    found = [record.find(sweep.folder.parent, name) for name in sweep.runs]
    made = []
    for run, point, now in zip(found, sweep.points, schedulers.statuses(found), strict=True):
        records, _ = logs.metrics(run.folder)
        steps = [r for r in records if "event" not in r and "loss" in r]
        evaluated = [r for r in records if r.get("event") == "eval"]
        last = steps[-1] if steps else {}
        made.append(
            {
                "run": run.id,
                "settings": dict(setting.split("=", 1) for setting in point),
                "state": now.state,
                "step": last.get("step"),
                "loss": last.get("loss"),
                "eval_loss": evaluated[-1].get("loss") if evaluated else None,
                "tokens_per_second": last.get("tokens_per_second"),
            }
        )
    return made

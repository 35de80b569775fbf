"""report: what runs and sweeps measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import OK, find_run

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def report(args: argparse.Namespace) -> int:
    from launcher.planning import workspace
    from launcher.reports import curves, pictures, sweep
    from launcher.runs import sweeps

    swept = sweeps.named(workspace.runs(), args.runs[0]) if len(args.runs) == 1 else None
    names = swept.runs if swept else args.runs
    runs = [curves.read(*_measured(name)) for name in names] if args.plot or not swept else []
    for path in pictures.draw_runs(runs, args.plot):
        say(f"wrote {path}")
    if swept:
        results = sweep.results(swept)
        print(sweep.as_json(results) if args.json else sweep.text(results))
    else:
        print(curves.as_json(runs) if args.json else curves.text(runs))
    return OK


def _measured(name: str) -> tuple[str, Path]:
    """A run's id and folder; a path is a folder already."""
    from pathlib import Path

    if "/" in name:
        return Path(name).resolve().name, Path(name)
    run = find_run(name)
    return run.id, run.folder

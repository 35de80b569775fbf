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
    from launcher.reports import curves, pictures, sweep, tables
    from launcher.runs import sweeps

    swept = sweeps.named(workspace.runs(), args.runs[0]) if len(args.runs) == 1 else None
    if swept:
        print(tables.sweep(sweep.results(swept), args.json))
        if not (args.html or args.png):
            return OK
    names = swept.runs if swept else args.runs
    found = [curves.read(*_measured(name)) for name in names]
    if not swept:
        print(curves.as_json(found) if args.json else curves.text(found))
    for path in pictures.of_runs(found, args.html, args.png):
        say(f"wrote {path}")
    return OK


def _measured(name: str) -> tuple[str, Path]:
    """A run's id and folder; a path is a folder already."""
    from pathlib import Path

    if "/" in name:
        return Path(name).resolve().name, Path(name)
    run = find_run(name)
    return run.id, run.folder

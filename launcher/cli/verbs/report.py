"""report: what runs and sweeps measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.cli import options
    from launcher.runs.pipelines import PipelineRun
    from launcher.runs.sweeps import Sweep


def report(given: options.Report) -> int:
    from launcher.reports import curves, pictures, sweep
    from launcher.runs.sweeps import Sweep

    entries = [Path(name) if "/" in name else _find(name) for name in given.runs]
    swept = entries[0] if len(entries) == 1 and isinstance(entries[0], Sweep) else None
    measured = (
        [curves.read(name, folder) for entry in entries for name, folder in _folders(entry)]
        if given.plot or not swept
        else []
    )
    for path in pictures.draw_runs(measured, given.plot):
        say(f"wrote {path}")
    if swept:
        results = sweep.results(swept)
        print(sweep.as_json(results) if given.json else sweep.text(results))
    else:
        print(curves.as_json(measured) if given.json else curves.text(measured))
    return OK


def _find(name: str) -> Sweep | PipelineRun:
    """The run, pipeline or sweep that `name` means. Raises RunNotFoundError."""
    from launcher.planning import workspace
    from launcher.runs import folders, pipelines, sweeps

    readers: dict[str, Callable[[Path], Sweep | PipelineRun]] = {**pipelines.READERS}
    return folders.find(workspace.runs(), name, readers | {sweeps.RECORD: sweeps.read})


def _folders(entry: Path | Sweep | PipelineRun) -> list[tuple[str, Path]]:
    """Run id and folder of each run."""
    from launcher.runs.sweeps import Sweep

    if isinstance(entry, Path):
        return [(entry.resolve().name, entry)]
    if isinstance(entry, Sweep):
        return [(name, entry.folder.parent / name) for name in entry.runs]
    return [(run.id, run.folder) for run in entry.present if run.native_id]

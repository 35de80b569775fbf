"""report: what runs and sweeps measured."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launcher.cli.streams import say
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from launcher.cli import options
    from launcher.reports.curves import Curves
    from launcher.reports.life import Life
    from launcher.reports.spending import Use
    from launcher.runs.pipelines import PipelineRun
    from launcher.runs.sweeps import Sweep


def report(given: options.Report) -> int:
    from launcher.reports import curves, pictures, spending, sweep, tables
    from launcher.runs.sweeps import Sweep

    where = _address(given)
    entries = _entries(given)
    swept = entries[0] if len(entries) == 1 and isinstance(entries[0], Sweep) else None
    if where:
        return _serve(where, entries)
    groups = [_places(entry) for entry in entries] if given.plot or not swept else []
    places = _once(groups)
    measured = _measured(places)
    if given.since is None:
        told = zip(places, measured, strict=True)
        _require_some(groups, {place.folder for place, (run, use, _) in told if not (run.steps or use)})
    for path in pictures.draw_runs(measured, given.plot):
        say(f"wrote {path}")
    if swept:
        results = sweep.results(swept)
        print(sweep.as_json(results) if given.json else sweep.text(results))
    elif given.json:
        print(tables.dump([{**curves.data(run), "hours": spending.data(use)} for run, use, _ in measured]))
    else:
        parts = (
            [curves.text([run for run, *_ in measured if run.steps])]
            if any(r.steps for r, *_ in measured)
            else []
        )
        parts += [spending.text(uses)] if (uses := [use for _, use, _ in measured if use]) else []
        print("\n\n".join(parts) or "nothing was measured")
    return OK


class _Place(NamedTuple):
    """A run and its folder; `live` if it still runs."""

    name: str
    folder: Path
    live: bool = False


def _once(groups: Iterable[list[_Place]]) -> list[_Place]:
    """Every run once, however often it was named: what it used is summed up."""
    found: dict[Path, _Place] = {}
    for place in itertools.chain.from_iterable(groups):
        folder = place.folder.resolve()
        if folder not in found or place.live:  # of a folder that was named it is not known
            found[folder] = place
    return list(found.values())


def _require_some(groups: list[list[_Place]], empty: set[Path]) -> None:
    """Raises RunNotFoundError where nothing is known of a run, or of all stages or runs of a pipeline or sweep."""
    from launcher.reports import curves

    for group in groups:
        if group and all(place.folder in empty for place in group):
            raise curves.nothing(group[0].name, group[0].folder)


def _measured(places: list[_Place]) -> list[tuple[Curves, Use | None, Life | None]]:
    from launcher.reports import curves, life, spending

    measured = []
    for place in places:
        now = time.time() if place.live else None
        run = curves.read(place.name, place.folder)
        measured.append((run, spending.of(place.name, place.folder, now), life.read(place.folder, now)))
    return measured


def _address(given: options.Report) -> tuple[str, int] | None:
    """Where the report is served; None where it is not. Raises SpecError, also for a RUN that --serve has taken."""
    from launcher.errors import SpecError
    from launcher.reports import live

    if given.serve is None:
        return None
    if not given.runs and given.since is None and given.serve != "0":
        what = f"no RUN was given: {given.serve!r} is the address of --serve"
        raise SpecError(what, hint="name runs before it: report RUN --serve")
    if given.json or given.plot:
        other = "--json" if given.json else "--plot"
        raise SpecError(f"--serve and {other} exclude each other", hint="leave one of them out")
    return live.address(given.serve)


def _serve(where: tuple[str, int], entries: list[Path | Sweep | PipelineRun]) -> int:
    """Show the report to browsers until Ctrl-C."""
    from launcher.reports import live, pictures

    def draw() -> bytes:
        return pictures.page(_measured(_once(map(_places, entries))), live.REFRESH)

    page = live.Page(draw)
    page.content()  # what is wrong is said here, and not to a browser
    with live.server(where, page) as server:
        host, port = str(server.server_address[0]), server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        say(
            f"http://{shown}:{port}/ shows the report, and draws it anew every {live.REFRESH} s; Ctrl-C ends it"
        )
        server.serve_forever()
    return OK


def _entries(given: options.Report) -> list[Path | Sweep | PipelineRun]:
    """What the words mean: names or folders, or all runs since a time. Raises SpecError for both or none of them."""
    from launcher import units
    from launcher.errors import RunNotFoundError, SpecError
    from launcher.planning import workspace
    from launcher.runs import pipelines, record

    if given.since is None:
        if not given.runs:
            raise SpecError("no RUN was given", hint="name runs, or `--since 30d` for all of them")
        return [_folder(name) if "/" in name else _find(name) for name in given.runs]
    if given.runs:
        raise SpecError("--since is of all runs: it goes without RUN", hint="leave one of them out")
    try:
        since = time.time() - units.seconds(given.since)
    except ValueError as error:
        raise SpecError(f"--since: {error}") from None
    here = workspace.runs()
    runs, broken = record.listed(here)
    for problem in broken:
        say(f"warning: {problem}")
    if recent := [run for run in runs if run.submitted >= since]:
        return [pipelines.of_run(run) for run in recent]
    raise RunNotFoundError(f"no run in {here} was submitted in the last {given.since}")


def _folder(name: str) -> Path:
    """Raises RunNotFoundError for what is no folder."""
    from launcher.errors import RunNotFoundError

    if not (folder := Path(name)).is_dir():
        raise RunNotFoundError(f"there is no folder {name}", hint="name a run's id, or its folder")
    return folder


def _find(name: str) -> Sweep | PipelineRun:
    """The run, pipeline or sweep that `name` means. Raises RunNotFoundError."""
    from launcher.planning import workspace
    from launcher.runs import folders, pipelines, sweeps

    readers: dict[str, Callable[[Path], Sweep | PipelineRun]] = {**pipelines.READERS}
    return folders.find(workspace.runs(), name, readers | {sweeps.RECORD: sweeps.read})


def _places(entry: Path | Sweep | PipelineRun) -> list[_Place]:
    """Each run of an entry."""
    from launcher import schedulers
    from launcher.runs.sweeps import Sweep

    if isinstance(entry, Path):
        return [_Place(entry.resolve().name, entry)]
    if isinstance(entry, Sweep):
        return [_Place(name, entry.folder.parent / name) for name in entry.runs]
    submitted = [run for run in entry.present if run.native_id]
    states = schedulers.statuses(submitted)
    return [
        _Place(run.id, run.folder, now.state == "RUNNING") for run, now in zip(submitted, states, strict=True)
    ]

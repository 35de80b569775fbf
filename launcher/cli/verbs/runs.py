"""status, logs, cancel, resume, list: what is asked of runs and pipelines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import shared
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.cli import options


def status(given: options.Run) -> int:
    from launcher import schedulers
    from launcher.reports import tables
    from launcher.runs import lock
    from launcher.submission import pipelines

    pipeline = shared.find(given.run)
    if pipeline.is_plain:
        (run,) = pipeline.present
        now = schedulers.load(run.scheduler).status(run)
        lock.complete(run.folder, now.hosts)
        print(tables.status_json(run, now) if given.json else tables.status(run, now))
        return OK
    data = pipelines.as_data(pipeline)
    if given.json:
        print(tables.dump(data))
        return OK
    rows = [
        (stage["stage"], stage["state"], stage["run"] or "-", stage["reason"]) for stage in data["stages"]
    ]
    print(f"{pipeline.id}: {data['state']}")
    print(tables.table(rows, ("stage", "state", "run", "")))
    return OK


def logs(given: options.Run) -> int:
    from launcher import schedulers
    from launcher.errors import RunNotFoundError
    from launcher.runs.status import Selection
    from launcher.submission import pipelines

    pipeline = shared.find(given.run)
    run = pipelines.current(pipeline)
    if not run.native_id:
        raise RunNotFoundError(
            f"{run.id} has no logs: it was not submitted yet",
            hint=f"`python -m launcher status {pipeline.id}` shows the stages",
        )
    if not pipeline.is_plain:
        say(f"logs of {run.id}:")
    for line in schedulers.load(run.scheduler).logs(run, Selection(given.rank, given.host, given.follow)):
        print(line, flush=given.follow)
    return OK


def cancel(given: options.Run) -> int:
    from launcher.runs import pipelines as records
    from launcher.submission import pipelines

    sweep = shared.find_sweep(given.run)
    pipeline = records.of_sweep(sweep) if sweep else shared.find(given.run)
    pipelines.cancel(pipeline)
    say(f"{pipeline.id}: {pipelines.state(pipelines.statuses(pipeline))}")
    return OK


def resume(given: options.Run) -> int:
    from launcher.submission import pipelines, placement

    pipeline = shared.find(given.run)
    exclude = placement.bad_hosts(say) if given.exclude_bad else ()
    if not pipeline.is_plain and all(run.scheduler == "kubernetes" for run in pipeline.present):
        from launcher.cli.verbs import leading
        from launcher.submission import leaders

        pipelines.require_unfinished(pipeline)
        return leading.lead(leaders.taken_back(pipeline), exclude, again=True)
    for run in pipelines.resume(pipeline, exclude, given.now):
        before = f" (before: {run.former[-1].partition(':')[0]})" if run.former else ""
        say(f"{run.id} resumed as {run.native_id.partition(':')[0]}{before}")
    return OK


def list_runs(given: options.List) -> int:
    from launcher import schedulers
    from launcher.planning import workspace
    from launcher.reports import tables
    from launcher.runs import index, record

    here = workspace.runs()
    places: dict[str, Path] = {}  # each once, whatever links lead to it
    for place in (here, *(index.known() if given.all else ())):
        places.setdefault(os.path.realpath(place), place)
    runs = []
    for place in places.values():
        readable, broken = record.listed(place)
        runs += readable
        for problem in broken:
            say(f"warning: {problem}")
    runs.sort(key=lambda run: run.submitted, reverse=True)
    pairs = [
        p for p in zip(runs, schedulers.statuses(runs), strict=True) if given.state in (None, p[1].state)
    ]
    if pairs or given.json:
        print(tables.run_list(pairs, given.json))
        return OK
    state = f"{given.state} " if given.state else ""
    print(f"no {state}runs in {', '.join(map(str, places.values()))}")
    if not given.state:
        _hint_other_folders(here, given.all)
    return OK


def _hint_other_folders(here: Path, all_searched: bool) -> None:
    from launcher.runs import index

    others = [folder for folder in index.known() if os.path.realpath(folder) != os.path.realpath(here)]
    if others and not all_searched:
        print(f"runs elsewhere, such as in {others[0]}: python -m launcher list --all")
    print("start one with: python -m launcher local jobs/quickstart.yaml --wait")

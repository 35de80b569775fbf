"""status, logs, cancel, resume, list: what is asked of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import OK, find_run, scheduler_of

if TYPE_CHECKING:
    import argparse


def status(args: argparse.Namespace) -> int:
    from launcher.reports import tables

    run = find_run(args.run)
    now = scheduler_of(run).status(run)
    print(tables.status_json(run, now) if args.json else tables.status(run, now))
    return OK


def logs(args: argparse.Namespace) -> int:
    from launcher.runs.status import Selection

    run = find_run(args.run)
    for line in scheduler_of(run).logs(run, Selection(args.rank, args.host, args.follow)):
        print(line, flush=args.follow)
    return OK


def cancel(args: argparse.Namespace) -> int:
    run = find_run(args.run)
    scheduler_of(run).cancel(run)
    say(f"{run.id}: {scheduler_of(run).status(run).state}")
    return OK


def resume(args: argparse.Namespace) -> int:
    from launcher.submission import placement, submit

    run = submit.resume(find_run(args.run), placement.bad_hosts(say) if args.exclude_bad else ())
    say(f"{run.id}: goes on as {run.native_id.partition(':')[0]}; it was {run.former[-1].partition(':')[0]}")
    return OK


def list_runs(args: argparse.Namespace) -> int:
    from launcher import schedulers
    from launcher.planning import workspace
    from launcher.reports import tables
    from launcher.runs import record

    found = list(record.listed(workspace.runs()))
    pairs = list(zip(found, schedulers.statuses(found), strict=True))
    print(tables.run_list([p for p in pairs if args.state in (None, p[1].state)], args.json))
    return OK

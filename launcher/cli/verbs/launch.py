"""local, slurm, kubernetes: plan, render, submit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import OK, must_fit, must_suit, plan_job, with_placement, write_output

if TYPE_CHECKING:
    import argparse

    from launcher.planning.plan import Plan


def launch(args: argparse.Namespace) -> int:
    from launcher import schedulers

    scheduler = schedulers.load(args.scheduler)
    if getattr(args, "sweep", ()):
        return _sweep(args)
    (plan,) = with_placement(args, [plan_job(args)])
    must_fit(plan, args.force)
    rehearsed = args.dry_run or args.output or getattr(args, "server_dry_run", False)
    must_suit(plan, args.scheduler, args.force, ask=not rehearsed)
    if args.dry_run or args.output:
        files = scheduler.render(plan)
        if args.output:
            write_output(args.output, getattr(scheduler, "separate", dict)(files))
        if args.dry_run:
            print("".join(files.values()), end="")
        return OK
    if getattr(args, "server_dry_run", False):
        return _rehearse(plan)
    from launcher.submission import submit

    run = submit.submit(scheduler, args.scheduler, plan)
    say(f"{run.id}: submitted to {args.scheduler} ({run.native_id.partition(':')[0]}); folder {run.folder}")
    if args.wait:
        from launcher.reports import progress

        return progress.follow(scheduler, run)
    say(f"follow it with: python -m launcher logs {run.id} -f")
    print(run.id)
    return OK


def _rehearse(plan: Plan) -> int:
    from launcher.schedulers import kubernetes

    for line in kubernetes.rehearse(plan, kubernetes.render(plan)):
        print(line)
    return OK


def _sweep(args: argparse.Namespace) -> int:
    from launcher.errors import SpecError
    from launcher.runs import sweeps
    from launcher.submission import submit

    if args.wait or args.dry_run or args.output:
        raise SpecError(
            "--sweep goes neither with --wait nor --dry-run nor -o", hint="follow it with `report`"
        )
    points = sweeps.points(args.sweep)
    plans = with_placement(args, [plan_job(args, point, f"p{i}") for i, point in enumerate(points)])
    for plan in plans:
        must_fit(plan, args.force)
        must_suit(plan, "slurm", args.force, ask=True)
    made = submit.sweep(plans, points)
    say(
        f"{made.id}: {len(points)} runs submitted as one array; see them with: python -m launcher report {made.id}"
    )
    print(made.id)
    return OK

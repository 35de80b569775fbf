"""What each verb does: calls, and what is printed on stdout.

Owns the order of calls. Every verb imports what it needs inside its function, so that none pays for another.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from launcher.errors import LauncherError, did_you_mean
from launcher.streams import say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from launcher.image import Facts
    from launcher.plan import Plan
    from launcher.runs import Run

OK, JOB_FAILED = 0, 1


def _plan(args: argparse.Namespace, point: Sequence[str] = (), suffix: str = "") -> Plan:
    from launcher import load, plan, site

    check_suffix(args.name)
    job, cluster = load.load(args.job, args.cluster, [*args.settings, *point])
    made = plan.make(job, cluster, site.here(), "-".join(filter(None, (args.name, suffix))))
    warn(made, args.strict)
    return made


def warn(plan: Plan, strict: bool) -> None:
    """Tell what is doubtful in a plan. Raises PlanError with the warnings when they shall count as errors."""
    from launcher.errors import PlanError

    if strict and plan.warnings:
        raise PlanError(*plan.warnings)
    for warning in plan.warnings:
        say(f"warning: {warning}")
    for note in plan.notes:
        say(f"note: {note}")


def check_suffix(name: str) -> None:
    """Raise SpecError when `name`, given by --name, cannot end a run's id."""
    from launcher import spec
    from launcher.errors import SpecError

    if name and not spec.is_name(f"x{name}"):
        raise SpecError(
            f"--name {name!r} is not a valid suffix",
            hint="use lower case letters, digits and '-', ending with a letter or digit",
        )


def _placed(args: argparse.Namespace, plans: Sequence[Plan]) -> list[Plan]:
    """The plans with the hosts to avoid and the jobs to wait for, looked up and told once."""
    from launcher import placement

    after, exclude_bad = getattr(args, "after", ()), getattr(args, "exclude_bad", False)
    return placement.of(plans, getattr(args, "scheduler", ""), after, exclude_bad, say)


def launch(args: argparse.Namespace) -> int:
    from launcher import schedulers

    scheduler = schedulers.load(args.scheduler)
    if getattr(args, "sweep", ()):
        return _sweep(args)
    (plan,) = _placed(args, [_plan(args)])
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
    from launcher import submit

    run = submit.submit(scheduler, args.scheduler, plan)
    say(f"{run.id}: submitted to {args.scheduler} ({run.native_id.partition(':')[0]}); folder {run.folder}")
    if args.wait:
        from launcher import progress

        return progress.follow(scheduler, run)
    say(f"follow it with: python -m launcher logs {run.id} -f")
    print(run.id)
    return OK


def _rehearse(plan: Plan) -> int:
    from launcher.schedulers import kubernetes

    for line in kubernetes.rehearse(plan, kubernetes.render(plan)):
        print(line)
    return OK


def must_fit(plan: Plan, force: bool) -> None:
    """Refuse a plan that runs out of memory; with --force say so and go on."""
    if plan.fit is None or plan.fit.fits:
        return
    refusal = plan.fit.refusal().at(plan.places)
    if not force:
        raise refusal
    say(f"warning: {refusal}")


def must_suit(plan: Plan, scheduler: str, force: bool, ask: bool) -> None:
    """Refuse a plan that its image cannot run; with --force say so and go on. With `ask` a registry may be asked."""
    facts = plan.cluster.image_facts
    if facts is None and not ask:
        return
    from launcher import imagecheck

    if not imagecheck.used(plan, scheduler):
        return
    if facts is None:
        from launcher import registry

        facts = registry.facts(plan.image)
    refusal = _image_refusal(plan, facts)
    if refusal and not force:
        raise refusal
    if refusal:
        say(f"warning: {refusal}")


def _image_refusal(plan: Plan, facts: Facts | None) -> LauncherError | None:
    if facts is None:
        return None
    from launcher import imagecheck

    stale = imagecheck.stale(plan, facts)
    if stale:
        say(f"note: {stale}")
    return imagecheck.refusal(plan, facts)


def _sweep(args: argparse.Namespace) -> int:
    from launcher import submit, sweeps
    from launcher.errors import SpecError

    if args.wait or args.dry_run or args.output:
        raise SpecError(
            "--sweep goes neither with --wait nor --dry-run nor -o", hint="follow it with `report`"
        )
    points = sweeps.points(args.sweep)
    plans = _placed(args, [_plan(args, point, f"p{i}") for i, point in enumerate(points)])
    for plan in plans:
        must_fit(plan, args.force)
        must_suit(plan, "slurm", args.force, ask=True)
    made = submit.sweep(plans, points)
    say(
        f"{made.id}: {len(points)} runs submitted as one array; see them with: python -m launcher report {made.id}"
    )
    print(made.id)
    return OK


def write_output(folder: str, files: dict[str, str]) -> None:
    from pathlib import Path

    from launcher import atomic, render, runs
    from launcher.errors import Problem, SpecError

    try:
        foreign = [n for n, text in files.items() if atomic.is_foreign(Path(folder) / n, render.MARK, text)]
        if foreign:
            hint = "move it away, or name another folder"
            raise SpecError(
                *(
                    Problem(f"-o {folder}: {name} is there and is not the launcher's", hint)
                    for name in foreign
                )
            )
        Path(folder).mkdir(parents=True, exist_ok=True)
        runs.write_files(Path(folder), files)
    except OSError as error:
        raise SpecError(f"-o {folder}: {error.strerror}", hint="name a folder that can be written") from None
    for name in files:
        say(f"wrote {Path(folder) / name}")


def show_plan(args: argparse.Namespace) -> int:
    from launcher import show

    if args.max_model or args.min_nodes:
        return _limit(args)
    made = _plan(args)
    refusal = _image_refusal(made, made.cluster.image_facts)
    if refusal:
        say(f"warning: {refusal}")
    print(show.plan_json(made) if args.json else show.plan(made))
    if args.html or args.png:
        from launcher import pictures

        for path in pictures.of_plan(made, args.html, args.png):
            say(f"wrote {path}")
    return OK


def _limit(args: argparse.Namespace) -> int:
    """The largest model for the job's cluster, or the fewest hosts for the job."""
    import json

    from launcher import limits, load, show_limits

    job, cluster = load.load(args.job, args.cluster, args.settings)
    try:
        if args.max_model:
            largest = limits.largest(job, cluster, args.max_model)
            data, text = show_limits.largest_data(largest), show_limits.largest_text(largest)
        else:
            fewest = limits.fewest(job, cluster)
            data, text = show_limits.fewest_data(fewest), show_limits.fewest_text(fewest)
    except LauncherError as error:
        raise error.at({"job": job.places, "cluster": cluster.places}) from None
    print(json.dumps(data, indent=2, ensure_ascii=False) if args.json else text)
    return OK


def check(args: argparse.Namespace) -> int:
    from launcher import load, plan, schedulers, site

    here = site.here()
    worst = OK
    for path in args.jobs:
        try:
            made = plan.make(*load.load(path, args.cluster, args.settings), here)
            warn(made, args.strict)
        except LauncherError as error:
            worst = max(worst, tell_of(path, error))
            continue
        if made.fit and not made.fit.fits:
            worst = max(worst, tell_of(path, made.fit.refusal().at(made.places)))
            continue
        for name in schedulers.SCHEDULERS:
            try:
                must_suit(made, name, force=False, ask=False)
            except LauncherError as error:
                worst = max(worst, tell_of(f"{path}: not on {name}", error))
                continue
            try:
                schedulers.load(name).render(made)
            except LauncherError as error:
                tell_of(f"{path}: not on {name}", error)
            else:
                print(f"{path}: ok on {name}")
    return worst


def tell_of(job: str, error: LauncherError) -> int:
    """Say every problem of one job among several: one that is not in its own file names the job first."""
    for problem in error.problems:
        own = problem.place is not None and problem.place.source == job
        say(f"{problem}" if own else f"{job}: {problem}")
    return error.exit_code


def diff(args: argparse.Namespace) -> int:
    from launcher.schedulers import kubernetes

    changes = kubernetes.diff(_plan(args))
    print(changes, end="")
    return JOB_FAILED if changes else OK  # as diff and `kubectl diff` do


def hostfile(args: argparse.Namespace) -> int:
    from launcher import allocation
    from launcher import hostfile as hostfiles

    text = sys.stdin.read() if args.hostlist == "-" else args.hostlist
    hosts = hostfiles.expand(text) if text is not None else allocation.hosts()
    print(hostfiles.text(hosts, args.slots if args.slots is not None else allocation.slots()), end="")
    return OK


def fabric_env(args: argparse.Namespace) -> int:
    from launcher import nccl, show
    from launcher.errors import SpecError

    if args.fabric is None:
        print(show.fabrics(args.json))
        return OK
    if args.fabric not in nccl.FABRICS:
        raise SpecError(f"unknown fabric {args.fabric!r}", hint=did_you_mean(args.fabric, nccl.FABRICS))
    fabric = nccl.FABRICS[args.fabric]
    variables = nccl.environment(fabric, gpu=True, interface=None)
    print(show.variables_json(variables) if args.json else nccl.text(variables, fabric.script).rstrip("\n"))
    return OK


def status(args: argparse.Namespace) -> int:
    from launcher import show

    run = _find(args.run)
    now = _scheduler(run).status(run)
    print(show.status_json(run, now) if args.json else show.status(run, now))
    return OK


def logs(args: argparse.Namespace) -> int:
    from launcher.schedulers import Selection

    run = _find(args.run)
    for line in _scheduler(run).logs(run, Selection(args.rank, args.host, args.follow)):
        print(line, flush=args.follow)
    return OK


def cancel(args: argparse.Namespace) -> int:
    run = _find(args.run)
    _scheduler(run).cancel(run)
    say(f"{run.id}: {_scheduler(run).status(run).state}")
    return OK


def resume(args: argparse.Namespace) -> int:
    from launcher import placement, submit

    run = submit.resume(_find(args.run), placement.bad_hosts(say) if args.exclude_bad else ())
    say(f"{run.id}: goes on as {run.native_id.partition(':')[0]}; it was {run.former[-1].partition(':')[0]}")
    return OK


def report(args: argparse.Namespace) -> int:
    from launcher import curves, pictures, show, site, sweeps

    swept = sweeps.named(site.runs(), args.runs[0]) if len(args.runs) == 1 else None
    if swept:
        print(show.sweep(sweeps.results(swept), args.json))
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
    run = _find(name)
    return run.id, run.folder


def list_runs(args: argparse.Namespace) -> int:
    from launcher import runs, schedulers, show, site

    found = list(runs.listed(site.runs()))
    pairs = list(zip(found, schedulers.statuses(found), strict=True))
    print(show.run_list([p for p in pairs if args.state in (None, p[1].state)], args.json))
    return OK


def schema(args: argparse.Namespace) -> int:
    import json

    if args.kind == "pipeline":
        from launcher import pipeline

        made = pipeline.schema()
    else:
        from launcher import spec

        made = spec.schema(args.kind)
    print(json.dumps(made, indent=2))
    return OK


def doctor(args: argparse.Namespace) -> int:
    from launcher import doctor as checks

    print(checks.report_json() if args.json else checks.report())
    return OK


def _find(name: str) -> Run:
    from launcher import runs, site

    return runs.find(site.runs(), name)


def _scheduler(run: Run) -> Any:
    from launcher import schedulers

    return schedulers.load(run.scheduler)

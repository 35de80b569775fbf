"""What verbs do when they are given a pipeline instead of a job or run; everything else goes on to the other verbs.

Owns the words about stages; their order and their runs are submission.pipelines'.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import (
    check as verbs_check,
)
from launcher.cli.verbs import (
    launch as verbs_launch,
)
from launcher.cli.verbs import (
    plan as verbs_plan,
)
from launcher.cli.verbs import (
    report as verbs_report,
)
from launcher.cli.verbs import (
    runs,
    shared,
)
from launcher.errors import LauncherError, SpecError

if TYPE_CHECKING:
    from launcher.files.pipeline import Pipeline, Stage
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.submission.pipelines import Chain, PlanOf


def launch(args: argparse.Namespace) -> int:
    from launcher.files import pipeline

    if not pipeline.is_one(args.job):
        return verbs_launch.launch(args)
    from launcher.submission import pipelines, placement

    if getattr(args, "sweep", ()):
        raise SpecError("--sweep is for jobs, not for a pipeline", hint="sweep a stage's job")
    made = pipeline.read(args.job)
    plan_of = _plan_of(made, args)
    rehearsed = args.dry_run or args.output
    plans = pipelines.rehearse(made, plan_of, args.scheduler, led=bool(args.wait or rehearsed))
    for plan in plans.values():
        shared.warn(plan, args.strict)
        shared.must_fit(plan, args.force)
        shared.must_suit(plan, args.scheduler, args.force, ask=not rehearsed)
    if rehearsed:
        return _rehearsed(args, made, plans)
    if args.scheduler == "kubernetes":
        return shared.OK if pipelines.lead(made, plan_of, _well) else shared.JOB_FAILED
    after = placement.jobs(getattr(args, "after", ()), args.scheduler)
    chain = pipelines.send(made, plan_of, args.scheduler, after)
    for name, run in chain.runs.items():
        waits = ", ".join(chain.runs[need].id for need in chain.needs[name])
        say(f"{name}: {run.id} {f'starts after {waits}' if waits else 'is submitted'}; folder {run.folder}")
    if args.wait:
        return _follow(chain)
    say(f"see how it is with: python -m launcher status {chain.id}")
    print(chain.id)
    return shared.OK


def _plan_of(made: Pipeline, args: argparse.Namespace) -> PlanOf:
    """How a stage of `made` is planned with the command line's options."""

    from launcher.files import load, pipeline
    from launcher.planning import plan, workspace
    from launcher.submission import placement

    suffix = getattr(args, "name", "")
    shared.check_suffix(suffix)
    given, here = pipeline.shared(args.settings, made.stages), workspace.here()
    exclude = placement.bad_hosts(say) if getattr(args, "exclude_bad", False) else ()

    def plan_of(stage: Stage, folders: dict[str, str]) -> Plan:
        settings = [*stage.words(folders), *given[stage.name]]
        job, cluster = load.load(stage.job, args.cluster or made.cluster, settings)
        return plan.make(job, cluster, here, suffix)._replace(exclude=exclude)

    return plan_of


def _rehearsed(args: argparse.Namespace, made: Pipeline, plans: dict[str, Plan]) -> int:
    from launcher import schedulers

    scheduler = schedulers.load(args.scheduler)
    for stage in made.stages:
        files = scheduler.render(plans[stage.name])
        if args.output:
            shared.write_output(f"{args.output}/{stage.name}", files)
        if stage.needs:
            say(f"{stage.name}: starts after {', '.join(stage.needs)}; this text does not wait by itself")
        if args.dry_run:
            print("".join(files.values()), end="")
    return shared.OK


def _well(name: str, run: Run) -> bool:
    """Follow a stage to its end. Returns whether it succeeded."""
    from launcher import schedulers
    from launcher.reports import progress

    say(f"stage {name}: {run.id}")
    return progress.follow(schedulers.load(run.scheduler), run) == shared.OK


def _follow(chain: Chain) -> int:
    """Follow the stages one after the other, to the end or to the first that did not succeed."""
    for name, run in chain.runs.items():
        if not _well(name, run):
            say(
                f"{chain.id} ended with stage {name}; `python -m launcher resume {chain.id}` goes on from there"
            )
            return shared.JOB_FAILED
    return shared.OK


def show_plan(args: argparse.Namespace) -> int:
    from launcher.files import pipeline

    if not pipeline.is_one(args.job):
        return verbs_plan.show_plan(args)
    if args.max_model or args.min_nodes or args.plot:
        raise SpecError("--max-model, --min-nodes and --plot are for jobs", hint="give a stage's job")
    import json

    from launcher.reports import tables
    from launcher.submission import pipelines

    made = pipeline.read(args.job)
    plans = pipelines.rehearse(made, _plan_of(made, args), "")
    if args.json:
        each = {name: json.loads(tables.plan_json(plan)) for name, plan in plans.items()}
        print(json.dumps({"name": made.name, "stages": each}, indent=2, ensure_ascii=False))
        return shared.OK
    for stage in made.stages:
        print(f"stage {stage.name}" + (f", after {', '.join(stage.needs)}" if stage.needs else ""))
        print(tables.plan(plans[stage.name]) + "\n")
    return shared.OK


def check(args: argparse.Namespace) -> int:
    from launcher.files import pipeline

    several = [path for path in args.jobs if pipeline.is_one(path)]
    jobs = [path for path in args.jobs if path not in several]
    worst = verbs_check.check(argparse.Namespace(**{**vars(args), "jobs": jobs})) if jobs else shared.OK
    return max([worst, *(_check(path, args) for path in several)])


def _check(path: str, args: argparse.Namespace) -> int:
    from launcher import schedulers
    from launcher.files import pipeline
    from launcher.submission import pipelines

    worst = shared.OK
    try:
        made = pipeline.read(path)
        plans = pipelines.rehearse(made, _plan_of(made, args), "")
        for plan in plans.values():
            shared.warn(plan, args.strict)
            shared.must_fit(plan, force=False)
    except LauncherError as error:
        return shared.tell_of(path, error)
    for name in schedulers.SCHEDULERS:
        try:
            pipelines.rehearse(made, _plan_of(made, args), name)
            for plan in plans.values():
                schedulers.load(name).render(plan)
        except LauncherError as error:
            shared.tell_of(f"{path}: not on {name}", error)
        else:
            print(f"{path}: ok on {name}")
    return worst


def status(args: argparse.Namespace) -> int:
    chain = _named(args.run)
    if chain is None:
        return runs.status(args)
    import json

    from launcher.reports import tables
    from launcher.submission import pipelines

    data = pipelines.as_data(chain)
    if args.json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return shared.OK
    rows = [(stage["stage"], stage["state"], stage["run"], stage["reason"]) for stage in data["stages"]]
    print(f"{chain.id}: {data['state']}")
    print(tables.table(rows, ("stage", "state", "run", "")))
    return shared.OK


def logs(args: argparse.Namespace) -> int:
    chain = _named(args.run)
    if chain is not None:
        from launcher.submission import pipelines

        args.run = pipelines.current(chain).id
        say(f"these are those of {args.run}")
    return runs.logs(args)


def cancel(args: argparse.Namespace) -> int:
    chain = _named(args.run)
    if chain is None:
        return runs.cancel(args)
    from launcher.submission import pipelines

    pipelines.cancel(chain)
    say(f"{chain.id}: {pipelines.state(pipelines.statuses(chain))}")
    return shared.OK


def resume(args: argparse.Namespace) -> int:
    chain = _named(args.run)
    if chain is None:
        return runs.resume(args)
    from launcher.submission import pipelines, placement

    for run in pipelines.resume(chain, placement.bad_hosts(say) if args.exclude_bad else ()):
        say(f"{run.id}: goes on as {run.native_id.partition(':')[0]}")
    return shared.OK


def report(args: argparse.Namespace) -> int:
    chains = {name: _named(name) for name in args.runs if "/" not in name}
    named: list[str] = []
    for name in args.runs:
        chain = chains.get(name)
        named += [run.id for run in chain.runs.values()] if chain else [name]
    return verbs_report.report(argparse.Namespace(**{**vars(args), "runs": named}))


def _named(name: str) -> Chain | None:
    """The pipeline that `name` names. Cheap where there are none."""
    from launcher.planning import workspace

    if next(workspace.runs().glob("*/pipeline.json"), None) is None:
        return None
    from launcher.submission import pipelines

    return pipelines.named(name)

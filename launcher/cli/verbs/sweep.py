"""--sweep: a run for each combination of settings, submitted together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import launch, shared, tokens
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from launcher.cli import options
    from launcher.planning.plan import Plan


def sweep(given: options.Launch) -> int:
    from launcher.errors import PlanError, SpecError
    from launcher.runs import sweeps
    from launcher.submission import pipelines, placement, submit

    if given.wait or not given.submits:
        raise SpecError(
            "--sweep goes neither with --wait nor --dry-run nor -o", hint="follow it with `report`"
        )
    after = placement.dependencies(given.after, given.scheduler)
    if after and given.scheduler == "kubernetes":
        raise PlanError(
            "--after waits in the command, and --sweep leaves at once", hint="sweep when it has succeeded"
        )
    exclude = placement.bad_hosts(say) if given.exclude_bad else ()
    points, plans = sweeps.points(given.sweep), list["Plan"]()
    for index, point in enumerate(points):
        stages = shared.load_stages(given.job, given, point)
        if stages.name:
            raise SpecError("--sweep is for jobs, not for a pipeline", hint="sweep a stage's job")
        plan_of = shared.planner("-".join(filter(None, (given.name, f"p{index}"))), exclude)
        plans.append(pipelines.plan_all(stages, plan_of, given.scheduler)[""]._replace(after=after))
    launch.require_all(given, {plan.id: plan for plan in plans})
    if given.scheduler == "kubernetes":
        from launcher.schedulers.kubernetes import queues

        for warning in queues.warnings(plans):
            say(f"warning: {warning}")
    tokens.require(given, {plan.id: plan for plan in plans})
    made = submit.sweep(given.scheduler, plans, points)
    say(f"{made.id}: {len(points)} runs submitted" + (" as one array" if given.scheduler == "slurm" else ""))
    say(f"compare them with: python -m launcher report {made.id}")
    print(made.id)
    return OK

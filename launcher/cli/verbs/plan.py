"""plan: what would run, and whether it fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import shared, tokens
from launcher.cli.verbs.shared import OK
from launcher.errors import LauncherError, SpecError

if TYPE_CHECKING:
    from launcher.cli import options
    from launcher.files.stages import Stage


def show_plan(given: options.Plan) -> int:
    from launcher.reports import tables
    from launcher.submission import pipelines

    shared.check_suffix(given.name)
    stages = shared.load_stages(given.job, given)
    if stages.name and (given.max_model or given.min_nodes or given.plot):
        raise SpecError("--max-model, --min-nodes and --plot are for jobs", hint="give a stage's job")
    if given.max_model or given.min_nodes:
        return _limit(given, stages.stages[0])
    plans = pipelines.plan_all(stages, shared.planner(given.name), "")
    for plan in plans.values():
        shared.warn(plan, given.strict)
        refusal = shared.image_refusal(plan, plan.image_facts)
        if refusal:
            say(f"warning: {refusal}")
    tokens.require(given, plans, {stage.name: stage.needs for stage in stages.stages})
    if given.plot:
        from launcher.reports import pictures

        for path in pictures.draw_plan(plans[""], given.plot):
            say(f"wrote {path}")
    if stages.name and given.json:
        each = {name: json.loads(tables.plan_json(plan)) for name, plan in plans.items()}
        print(json.dumps({"name": stages.name, "stages": each}, indent=2, ensure_ascii=False))
        return OK
    for stage in stages.stages:
        if stage.name:
            print(f"stage {stage.name}" + (f", after {', '.join(stage.needs)}" if stage.needs else ""))
        plan = plans[stage.name]
        print((tables.plan_json(plan) if given.json else tables.plan(plan)) + ("\n" if stage.name else ""))
    return OK


def _limit(given: options.Plan, stage: Stage) -> int:
    """The largest model for the job's cluster, or the fewest hosts for the job."""
    from launcher.planning import capacity
    from launcher.reports import estimate

    loaded = shared.load_stage(stage, {})
    job, cluster, places = loaded.job, loaded.cluster, loaded.places
    try:
        if given.max_model:
            largest = capacity.largest(job, cluster, given.max_model)
            limit, data = largest.estimate, estimate.largest_data(largest)
            text = estimate.largest_text(largest)
        else:
            fewest = capacity.fewest(job, cluster, loaded.hub)
            limit, data, text = fewest.estimate, estimate.fewest_data(fewest), estimate.fewest_text(fewest)
    except LauncherError as error:
        raise error.at(places) from None
    if given.plot:
        from launcher.reports import pictures

        for path in pictures.draw_estimate(job.name, limit, given.plot):
            say(f"wrote {path}")
    print(json.dumps(data, indent=2, ensure_ascii=False) if given.json else text)
    return OK

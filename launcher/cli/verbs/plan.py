"""plan: what would run, and whether it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import OK, image_refusal, plan_job
from launcher.errors import LauncherError

if TYPE_CHECKING:
    import argparse


def show_plan(args: argparse.Namespace) -> int:
    from launcher.reports import tables

    if args.max_model or args.min_nodes:
        return _limit(args)
    made = plan_job(args)
    refusal = image_refusal(made, made.cluster.image_facts)
    if refusal:
        say(f"warning: {refusal}")
    if args.plot:
        from launcher.reports import pictures

        for path in pictures.draw_plan(made, args.plot):
            say(f"wrote {path}")
    print(tables.plan_json(made) if args.json else tables.plan(made))
    return OK


def _limit(args: argparse.Namespace) -> int:
    """The largest model for the job's cluster, or the fewest hosts for the job."""
    import json

    from launcher.files import load
    from launcher.planning import capacity
    from launcher.reports import estimate

    job, cluster = load.load(args.job, args.cluster, args.settings)
    try:
        if args.max_model:
            largest = capacity.largest(job, cluster, args.max_model)
            limit, data, text = (
                largest.estimate,
                estimate.largest_data(largest),
                estimate.largest_text(largest),
            )
        else:
            fewest = capacity.fewest(job, cluster)
            limit, data, text = fewest.estimate, estimate.fewest_data(fewest), estimate.fewest_text(fewest)
    except LauncherError as error:
        raise error.at({"job": job.places, "cluster": cluster.places}) from None
    if args.plot:
        from launcher.reports import pictures

        for path in pictures.draw_estimate(job.name, limit, args.plot):
            say(f"wrote {path}")
    print(json.dumps(data, indent=2, ensure_ascii=False) if args.json else text)
    return OK

"""What verbs share: from arguments to a plan, and the gates before a submission.

Every verb imports what it needs inside its function, so that none pays for another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.cli.streams import say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from launcher.errors import LauncherError
    from launcher.images.facts import Facts
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run

OK, JOB_FAILED = 0, 1


def plan_job(args: argparse.Namespace, point: Sequence[str] = (), suffix: str = "") -> Plan:
    from launcher.files import load
    from launcher.planning import plan, workspace

    check_suffix(args.name)
    job, cluster = load.load(args.job, args.cluster, [*args.settings, *point])
    made = plan.make(job, cluster, workspace.here(), "-".join(filter(None, (args.name, suffix))))
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
    from launcher.errors import SpecError
    from launcher.files import fields

    if name and not fields.is_name(f"x{name}"):
        raise SpecError(
            f"--name {name!r} is not a valid suffix",
            hint="use lower case letters, digits and '-', ending with a letter or digit",
        )


def with_placement(args: argparse.Namespace, plans: Sequence[Plan]) -> list[Plan]:
    """The plans with the hosts to avoid and the jobs to wait for, looked up and told once."""
    from launcher.submission import placement

    after, exclude_bad = getattr(args, "after", ()), getattr(args, "exclude_bad", False)
    return placement.of(plans, getattr(args, "scheduler", ""), after, exclude_bad, say)


def must_fit(plan: Plan, force: bool) -> None:
    """Refuse a plan that runs out of memory; with --force say so and go on."""
    if plan.estimate is None or plan.estimate.fits:
        return
    refusal = plan.estimate.refusal().at(plan.places)
    if not force:
        raise refusal
    say(f"warning: {refusal}")


def must_suit(plan: Plan, scheduler: str, force: bool, ask: bool) -> None:
    """Refuse a plan that its image cannot run; with --force say so and go on. With `ask` a registry may be asked."""
    facts = plan.cluster.image_facts
    if facts is None and not ask:
        return
    from launcher.planning import image_check

    if not image_check.used(plan, scheduler):
        return
    if facts is None:
        from launcher.images import registry

        facts, note = registry.facts(plan.image)
        if note:
            say(f"note: {note}")
    refusal = image_refusal(plan, facts)
    if refusal and not force:
        raise refusal
    if refusal:
        say(f"warning: {refusal}")


def image_refusal(plan: Plan, facts: Facts | None) -> LauncherError | None:
    if facts is None:
        return None
    from launcher.planning import image_check

    stale = image_check.stale(plan, facts)
    if stale:
        say(f"note: {stale}")
    return image_check.refusal(plan, facts)


def write_output(folder: str, files: dict[str, str]) -> None:
    from pathlib import Path

    from launcher import atomic
    from launcher.errors import Problem, SpecError
    from launcher.rendering import templates
    from launcher.runs import record

    try:
        foreign = [
            n for n, text in files.items() if atomic.is_foreign(Path(folder) / n, templates.MARK, text)
        ]
        if foreign:
            hint = "move it away, or name another folder"
            raise SpecError(
                *(Problem(f"-o {folder}: {n} is there and is not the launcher's", hint) for n in foreign)
            )
        Path(folder).mkdir(parents=True, exist_ok=True)
        record.write_files(Path(folder), files)
    except OSError as error:
        raise SpecError(f"-o {folder}: {error.strerror}", hint="name a folder that can be written") from None
    for name in files:
        say(f"wrote {Path(folder) / name}")


def tell_of(job: str, error: LauncherError) -> int:
    """Say every problem of one job among several: one that is not in its own file names the job first."""
    for problem in error.problems:
        own = problem.place is not None and problem.place.source == job
        say(f"{problem}" if own else f"{job}: {problem}")
    return error.exit_code


def find_run(name: str) -> Run:
    from launcher.planning import workspace
    from launcher.runs import record

    return record.find(workspace.runs(), name)


def scheduler_of(run: Run) -> Any:
    from launcher import schedulers

    return schedulers.load(run.scheduler)

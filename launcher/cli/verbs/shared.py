"""What verbs share: from options to plans, and the gates before a submission.

Every verb imports what it needs inside its function, so that none pays for another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.cli import options
    from launcher.errors import LauncherError
    from launcher.files.load import Loaded
    from launcher.files.stages import Stage, Stages
    from launcher.images.facts import Facts
    from launcher.planning.plan import Plan
    from launcher.runs.pipelines import PipelineRun
    from launcher.runs.sweeps import Sweep
    from launcher.submission.pipelines import PlanOf

OK, JOB_FAILED = 0, 1


def load_stages(job: str, files: options.Files, point: Sequence[str] = ()) -> Stages:
    """The stages of a job or pipeline file. Raises as `load.load` does."""
    from launcher.files import load

    return load.load(job, files.cluster, [*files.settings, *point])


def load_stage(stage: Stage, folders: Mapping[str, str]) -> Loaded:
    """The stage's job and cluster, and what is known of its model where that is the hub's."""
    from launcher.files import load
    from launcher.planning import hub

    return hub.with_model(load.load_stage(stage, folders))


def planner(suffix: str = "", exclude: Sequence[str] = ()) -> PlanOf:
    """How a stage is planned on this machine. `suffix` is that of its run's id; `exclude` are hosts to avoid."""
    from launcher.planning import code_files, plan, workspace

    site = workspace.here()

    def plan_of(stage: Stage, folders: Mapping[str, str]) -> Plan:
        loaded = load_stage(stage, folders)
        decided = plan.make(loaded, site, suffix)
        code, problem = code_files.find(loaded.job, loaded.beside, site.runs)
        return decided._replace(exclude=tuple(exclude), code=code, code_problem=problem)

    return plan_of


def check_suffix(name: str) -> None:
    """Raise SpecError when `name`, given by --name, cannot end a run's id."""
    from launcher.errors import SpecError
    from launcher.files import fields

    if name and not fields.is_name(f"x{name}"):
        raise SpecError(
            f"--name {name!r} is not a valid suffix",
            hint="use lower case letters, digits and '-', ending with a letter or digit",
        )


def warn(plan: Plan, strict: bool) -> None:
    """Say what is doubtful in a plan. Raises PlanError with the warnings when they shall count as errors."""
    from launcher.errors import PlanError
    from launcher.planning import workspace

    if strict and plan.warnings:
        raise PlanError(*plan.warnings)
    for warning in plan.warnings:
        say(f"warning: {warning}")
    for note in plan.notes:
        say(f"note: {note}")
    if said := workspace.deepspeed_note(plan):
        say(f"note: {said}")


def require_fit(plan: Plan, force: bool) -> None:
    """Refuse a plan that runs out of memory; with `force` only warn."""
    if plan.estimate and not plan.estimate.fits:
        from launcher.planning import fit

        more = fit.adapters(plan.estimate, plan.job, plan.cluster)
        _refuse(plan.estimate.refusal(more).at(plan.places), force)
    if plan.inference and not plan.inference.fits:
        from launcher.planning import generating

        _refuse(generating.refusal(plan.inference, plan.job, plan.cluster).at(plan.places), force)


def _refuse(refusal: LauncherError | None, force: bool) -> None:
    """Raise `refusal`, if there is one; with `force` only warn."""
    if refusal and not force:
        raise refusal
    if refusal:
        say(f"warning: {refusal}")


def require_program(plan: Plan, scheduler: str) -> None:
    """Refuse a plan whose ranks would not find the user's own program, or their Python."""
    from launcher.errors import PlanError
    from launcher.planning import on_this_machine

    require_code(plan)
    if problems := list(on_this_machine.problems(plan, scheduler)):
        raise PlanError(*problems).at(plan.places)


def require_code(plan: Plan) -> None:
    """Refuse a plan whose code cannot travel; say what of it does not."""
    from launcher.errors import PlanError

    if plan.code_problem:
        raise PlanError(plan.code_problem).at(plan.places)
    for what in plan.code.left_out if plan.code else ():
        say(f"note: code: left out {what}")


def require_image(plan: Plan, scheduler: str, force: bool, ask: bool) -> None:
    """Refuse a plan that its image cannot run; with `force` only warn. With `ask` a registry may be asked."""
    from launcher.errors import PlanError
    from launcher.planning import image_check
    from launcher.submission import image_python

    facts = plan.image_facts
    if not image_check.used(plan, scheduler):
        if ask:  # ranks have no image, and may not find a package
            from launcher.planning import interpreter

            _refuse(interpreter.refusal(plan), force)
        return
    if (wrong := image_python.problem(plan, scheduler, ask)) and not force:
        raise PlanError(wrong).at(plan.places)
    if facts is None and ask:
        from launcher.images import registry

        facts, note = registry.facts(plan.image)
        if note:
            say(f"note: {note}")
    _refuse(image_refusal(plan, facts), force)


def image_refusal(plan: Plan, facts: Facts | None) -> LauncherError | None:
    from launcher.planning import image_check

    stale = image_check.stale(plan, facts) if facts else ""
    if stale:
        say(f"note: {stale}")
    return image_check.refusal(plan, facts)


def find(name: str) -> PipelineRun:
    """The run or pipeline whose id is `name` or starts with it alone. Raises RunNotFoundError."""
    from launcher.errors import RunNotFoundError
    from launcher.planning import workspace
    from launcher.runs import pipelines

    try:
        found = pipelines.find(workspace.runs(), name)
    except RunNotFoundError as error:
        if not (sweep := find_sweep(name)):
            raise
        hint = f"`report {sweep.id}` shows its runs; name one of them, such as {sweep.runs[0]}"
        raise RunNotFoundError(f"{sweep.id} is a sweep", hint=hint) from error
    if found.leader:
        from launcher.submission import leaders

        return leaders.adopted(found)
    return found


def find_sweep(name: str) -> Sweep | None:
    """The sweep with this id."""
    from launcher.errors import RunNotFoundError
    from launcher.planning import workspace
    from launcher.runs import folders, sweeps

    try:
        found = folders.find(workspace.runs(), name, {sweeps.RECORD: sweeps.read})
    except RunNotFoundError:
        return None
    return found if found.id == name else None

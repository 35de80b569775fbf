"""local, slurm, kubernetes: plan, render, submit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import leading, shared, tokens
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.cli import options
    from launcher.files.stages import Stages
    from launcher.planning.plan import Plan
    from launcher.runs.pipelines import PipelineRun


def launch(given: options.Launch) -> int:
    from launcher.errors import SpecError
    from launcher.submission import pipelines, placement

    shared.check_suffix(given.name)
    if given.sweep:
        from launcher.cli.verbs import sweep

        return sweep.sweep(given)
    if given.debug:
        from launcher.cli.verbs import debug

        return debug.debug(given)
    if given.with_claims and not given.dry_run:
        what = "--with-claims goes with --dry-run: a claim outlives its runs, so it is made by hand"
        raise SpecError(what, hint="… --dry-run --with-claims 1Ti | kubectl apply --server-side -f -")
    stages = shared.load_stages(given.job, given)
    after = placement.dependencies(given.after, given.scheduler)
    led = given.scheduler == "kubernetes" and (len(stages.stages) > 1 or bool(after))
    exclude = placement.bad_hosts(say) if given.exclude_bad else ()
    plan_of = shared.planner(given.name, exclude)
    plans = pipelines.plan_all(stages, plan_of, given.scheduler)
    if led and given.submits and not given.wait:
        _require_leader(plans)
    require_all(given, plans)
    tokens.require(given, plans, {stage.name: stage.needs for stage in stages.stages})
    if not given.submits:
        if led and after:
            say("what is printed or written does not enforce --after")
        return _rehearse(given, stages, {name: plan._replace(after=after) for name, plan in plans.items()})
    pipeline, prepared = pipelines.prepare(stages, plan_of, given.scheduler, after)
    if led and given.wait:
        return leading.lead(pipeline, exclude)
    if led:
        return leading.hand_over(pipeline, prepared)
    pipeline = pipelines.submit_all(pipeline, prepared, given.scheduler)
    _say_submitted(pipeline)
    if given.wait:
        return leading.follow(pipeline)
    hint = f"logs {pipeline.id} -f" if pipeline.is_plain else f"status {pipeline.id}"
    say(f"follow it with: python -m launcher {hint}")
    print(pipeline.id)
    return OK


def _require_leader(plans: Mapping[str, Plan]) -> None:
    """Raise PlanError where nobody would submit the stages that wait."""
    from launcher.errors import PlanError
    from launcher.schedulers.kubernetes import leader

    if not all(plan.cluster.kubernetes.leader for plan in plans.values()):
        raise PlanError(
            "Kubernetes has no jobs that wait for each other",
            hint="add --wait: each is then submitted when the one before has succeeded; or kubernetes.leader in the "
            "cluster file: a pod submits them",
        )
    leader.require(plans)


def require_all(given: options.Launch | options.Prove, plans: Mapping[str, Plan]) -> None:
    from launcher import schedulers

    for plan in plans.values():
        shared.warn(plan, given.strict)
        if given.submits:
            for warning in schedulers.warnings(given.scheduler, plan):
                say(f"warning: {warning}")
        shared.require_fit(plan, given.force)
        if given.submits:
            shared.require_program(plan, given.scheduler)
        shared.require_image(plan, given.scheduler, given.force, ask=given.submits)


def _rehearse(given: options.Launch, stages: Stages, plans: Mapping[str, Plan]) -> int:
    """Print, write, or have the API server check what would be submitted."""
    from launcher import schedulers

    scheduler = schedulers.load(given.scheduler)
    rendered = {name: scheduler.render(plan) for name, plan in plans.items()}
    for plan in plans.values():
        shared.require_code(plan)
    folders = {name: f"{given.output}/{name}" if name else str(given.output) for name in rendered}
    separate = getattr(scheduler, "separate", dict)
    if given.output:  # nothing is written where a later stage is refused
        for name, files in rendered.items():
            require_own(folders[name], separate(files))
    if given.with_claims:
        _print_claims(given.with_claims, plans)
    answers = _asked(plans, rendered) if given.server_dry_run else {}
    for stage in stages.stages:
        files = rendered[stage.name]
        order = f"stage {stage.name}" + (f", after {' and '.join(stage.needs)}" if stage.needs else "")
        if given.output:
            write_output(folders[stage.name], separate(files))
        if given.dry_run:
            # one stream of documents for kubectl; a script starts with its own #!
            head = f"---\n# {order}\n" if stage.name and given.scheduler == "kubernetes" else ""
            print(head + "".join(files.values()), end="")
        if given.server_dry_run:
            print(*answers[stage.name], sep="\n")
        if stage.needs:
            say(f"{order}: what is printed or written does not enforce this dependency")
    return OK


def _asked(plans: Mapping[str, Plan], rendered: Mapping[str, dict[str, str]]) -> dict[str, list[str]]:
    """What the API server says of each stage's manifest."""
    from launcher.schedulers import kubernetes

    return {name: kubernetes.rehearse(plans[name], files) for name, files in rendered.items()}


def _print_claims(storage: str, plans: Mapping[str, Plan]) -> None:
    """The claims that the stages name, each once, ahead of the manifests. Raises SpecError where they name none."""
    from launcher.errors import SpecError
    from launcher.schedulers.kubernetes import storage as claims

    texts = [part for plan in plans.values() for part in claims.claims(plan, storage).split("---\n") if part]
    if not texts:
        raise SpecError(
            "--with-claims: no claim is named", hint="name one in the cluster file: kubernetes: {runs: CLAIM}"
        )
    print(*dict.fromkeys(f"{text}---\n" for text in texts), sep="", end="")


def require_own(folder: str, files: dict[str, str]) -> None:
    """Raise SpecError when `folder` has a file of one of these names that the launcher did not write."""
    from pathlib import Path

    from launcher import atomic
    from launcher.errors import Problem, SpecError
    from launcher.rendering import templates

    try:
        foreign = [
            n for n, text in files.items() if atomic.is_foreign(Path(folder) / n, templates.MARK, text)
        ]
    except OSError as error:
        raise SpecError(f"-o {folder}: {error.strerror}", hint="name a folder that can be written") from None
    if foreign:
        hint = "move it away, or name another folder"
        raise SpecError(
            *(Problem(f"-o {folder}: {n} is there and is not the launcher's", hint) for n in foreign)
        )


def write_output(folder: str, files: dict[str, str]) -> None:
    from pathlib import Path

    from launcher.errors import SpecError
    from launcher.runs import folders

    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        folders.write_files(Path(folder), files)
    except OSError as error:
        raise SpecError(f"-o {folder}: {error.strerror}", hint="name a folder that can be written") from None
    for name in files:
        say(f"wrote {Path(folder) / name}")


def _say_submitted(pipeline: PipelineRun) -> None:
    for name, run in pipeline.runs.items():
        assert run
        needs = [other.id for need in pipeline.needs[name] if (other := pipeline.runs[need])]
        waits = f", after {' and '.join(needs)}" if needs else ""
        where = f"{run.scheduler} ({run.native_id.partition(':')[0]})"
        say(f"{run.id}: submitted to {where}{waits}; folder {run.folder}")

"""tune: try configurations of a job in one allocation, and write the job file with the best of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import shared, tokens
from launcher.cli.verbs.shared import JOB_FAILED, OK

if TYPE_CHECKING:
    from launcher.cli import options
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.trials import Found

_MOST = 200  # candidates: a ConfigMap holds 1 MiB
_MOST_STEPS = 10_000


def tune(given: options.Tune) -> int:
    """A job file is tuned; of a tuning run that there is, the results are shown."""
    from launcher.errors import SpecError

    _require_free(given.output)
    if not _is_file(given.job):
        if given.dry_run or given.wait or given.space or given.settings or given.cluster:
            what = f"there is no job file {given.job}"
            raise SpecError(what, hint="check the path; a run's id goes with -o, --json and --plot alone")
        return _show(given, _find(given.job))
    plan = _plan(given)
    if given.dry_run:
        return _rehearse(given, plan)
    if (given.plot or given.output) and not given.wait:
        option = "--plot" if given.plot else "-o"
        raise SpecError(f"{option} needs results", hint=f"add --wait, or `tune RUN {option} FILE` later")
    if given.plot:
        from launcher.reports import pictures

        pictures.require(given.plot)  # before the hours that they are about
    run = _submitted(given, plan)
    if not given.wait:
        say(f"see what it finds, and write the job file: python -m launcher tune {run.id} -o FILE")
        print(run.id)
        return OK
    from launcher import schedulers
    from launcher.reports import progress

    code = progress.follow(run, schedulers.load(run.scheduler).status)
    return max(code, _show(given, run))


def _is_file(job: str) -> bool:
    """Whether a file is meant, be it there or not."""
    return job.endswith((".yaml", ".yml")) or "/" in job or os.path.exists(job)  # noqa: PTH110 - Path.exists raises for long names


def _require_free(output: str | None) -> None:
    from launcher.errors import SpecError

    if output and os.path.lexists(output):
        raise SpecError(f"-o {output}: the file exists", hint="it is left as it is; name another one")
    if output and not Path(output).parent.is_dir():
        raise SpecError(f"-o {output}: there is no folder {Path(output).parent}", hint="make it first")


def _find(name: str) -> Run:
    """The run. Raises RunNotFoundError, also for a pipeline."""
    from launcher.errors import RunNotFoundError

    found = shared.find(name)
    if not found.is_plain or not found.present:
        raise RunNotFoundError(f"{name} is no tuning run")
    return found.present[0]


def _plan(given: options.Tune) -> Plan:
    """The tuning run's plan. Raises SpecError and PlanError."""
    from launcher import units
    from launcher.errors import SpecError
    from launcher.files import document, settings
    from launcher.planning import space, tuning, workspace

    shared.check_suffix(given.name)
    try:
        limit = units.seconds(given.limit)
    except ValueError as error:
        raise SpecError(f"--limit: {error}") from None
    if not 3 <= given.steps <= _MOST_STEPS or not 1 <= given.most <= _MOST or limit < 1:
        what = f"--steps takes 3 to {_MOST_STEPS}, the first two are not timed"
        raise SpecError(
            what
            if not 3 <= given.steps <= _MOST_STEPS
            else f"--most takes 1 to {_MOST}, --limit a time such as 10m"
        )
    asked = space.parse(given.space)
    stages = shared.load_stages(given.job, given)
    if stages.name:
        raise SpecError("tune is for jobs, not for a pipeline", hint="tune a stage's job")
    path = document.find(given.job)
    if not path.is_file():
        raise SpecError(f"{given.job} is no file that can be read again", hint="tune a job file")
    loaded = shared.load_stage(stages.stages[0], {})
    own = tuning.job_settings([settings.parse(word) for word in given.settings])
    wishes = tuning.Wishes(space=asked, steps=given.steps, limit=limit, most=given.most, settings=own)
    plan = tuning.make(loaded, workspace.here(), given.name, wishes)
    return tuning.with_job(plan, path.read_text(encoding="utf-8-sig"), str(path.resolve().parent))


def _rehearse(given: options.Tune, plan: Plan) -> int:
    from launcher import schedulers
    from launcher.reports import tuning

    name = schedulers.ALIASES.get(given.on, given.on)
    on = schedulers.load(name)
    shared.warn(plan, given.strict)
    for warning in schedulers.warnings(name, plan):
        say(f"warning: {warning}")
    shared.require_image(plan, name, force=False, ask=False)
    on.render(plan)  # what the scheduler would not take
    assert plan.tuning
    rows = tuning.planned(plan.tuning)
    print(tuning.data(rows) if given.json else tuning.text(rows))
    tried, count = len(plan.tuning.trials), len(rows)
    say(f"{tried} of {count} candidates would be tried, {plan.tuning.steps} steps each at first")
    return OK


def _submitted(given: options.Tune, plan: Plan) -> Run:
    from launcher import schedulers
    from launcher.submission import submit

    name = schedulers.ALIASES.get(given.on, given.on)
    schedulers.load(name)  # one that there is not is said first
    shared.warn(plan, given.strict)
    for warning in schedulers.warnings(name, plan):
        say(f"warning: {warning}")
    shared.require_program(plan, name)
    shared.require_image(plan, name, force=False, ask=True)
    tokens.require(given, {"": plan})
    run = submit.start(name, plan)
    assert plan.tuning
    where = f"{run.scheduler} ({run.native_id.partition(':')[0]})"
    say(f"{run.id}: {len(plan.tuning.trials)} candidates, submitted to {where}; folder {run.folder}")
    return run


def _show(given: options.Tune, run: Run) -> int:
    """The results of a run so far; the job file once it is done."""
    from launcher.reports import pictures, tuning

    found = _results(run)
    rows = tuning.found(found)
    job = _write(given, run, found) if found.settled and found.ranked else None
    for path in pictures.draw_trials(run.id, rows, given.plot):
        say(f"wrote {path}")
    if given.json:
        print(tuning.data(rows, run.id, found.settled, job))
    else:
        print(tuning.text(rows))
    if not found.settled:
        say(f"{run.id} is not done: {len(found.trials)} trials have ended")
    elif not found.ranked:
        say(f"{run.id}: no configuration worked; the last words of each are in {run.folder}/trials")
        return JOB_FAILED
    return OK


def _results(run: Run) -> Found:
    """From the run's folder, else from the log of its first host."""
    from launcher import schedulers
    from launcher.errors import LauncherError
    from launcher.runs import trials
    from launcher.runs.status import Selection

    if run.scheduler != "kubernetes" or (run.folder / trials.FILE).exists():
        return trials.read(run.folder)
    try:
        lines = list(schedulers.load(run.scheduler).logs(run, Selection(rank=0)))
    except LauncherError:  # it has not started, or is gone
        lines = []
    return trials.read(run.folder, lines)


def _write(given: options.Tune, run: Run, found: Found) -> str | None:
    """The job file with the best configuration: tuned.yaml of the run folder, and -o.

    Returns its path; None where neither was written, as into the folder of another user's run.
    """
    from launcher import atomic
    from launcher.errors import RunNotFoundError, SpecError
    from launcher.files import tuned
    from launcher.planning import tuning_record

    best = found.tuning.trials[found.ranked[0]]

    def text(folder: Path) -> bytes:
        """For a file in `folder`."""
        home = found.tuning.folder
        moved_from = "" if str(folder.resolve()) == home else home
        try:
            changed = tuned.changed(found.tuning.job, tuning_record.fields(best), moved_from)
        except ValueError as error:
            what = f"{run.id}: the job file in its plan.json cannot be read: {error}"
            raise RunNotFoundError(what) from None
        return atomic.encoded(changed)

    kept = run.folder / "tuned.yaml"
    try:
        if not kept.exists():
            atomic.write(kept, text(run.folder))
    except OSError as error:
        if not given.output:
            say(f"note: {kept} cannot be written: {error.strerror}; `-o FILE` writes it elsewhere")
            return None
    if not given.output:
        return str(kept)
    try:
        with Path(given.output).open("xb") as file:
            file.write(text(Path(given.output).parent))
    except OSError as error:
        hint = "name another one"
        raise SpecError(f"-o {given.output}: {error.strerror}", hint=hint) from None
    say(f"wrote {given.output}: {best.name}")
    return given.output

"""prove: that a job goes on as if nothing had happened, shown by short runs of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import launch, shared, tokens
from launcher.cli.verbs.shared import JOB_FAILED, OK

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.cli import options
    from launcher.planning.plan import Plan
    from launcher.runs.certificate import Certificate


def prove(given: options.Prove) -> int:
    from pathlib import Path

    from launcher import schedulers
    from launcher.errors import PlanError
    from launcher.reports import certificate as table
    from launcher.runs import certificate
    from launcher.submission import proof, proving

    shared.check_suffix(given.name)
    given.scheduler = schedulers.ALIASES.get(given.scheduler, given.scheduler)
    base = _plan(given, [])
    if wrong := proving.problem(base, given.scheduler):
        raise PlanError(wrong).at(base.places)
    course = proof.course(base, given.scheduler, given.steps, given.kills)
    plans = {name: _plan(given, words, name) for name, words in course.settings.items()}
    launch.require_all(given, plans)
    tokens.require(given, plans)
    made = proof.Proof(course, plans, lambda words: _plan(given, words, proof.MOVED), say).made()
    keep(made, Path(base.workspace.runs))
    if not course.own and (gone := proof.tidy(made, Path(base.workspace.runs))):
        say(f"the checkpoints of these {len(gone)} runs are deleted")
    print(certificate.as_json(made) if given.json else table.text(made))
    return OK if made.proven else JOB_FAILED


def keep(made: Certificate, runs: Path) -> None:
    """Write it into the folders of its runs. What hours have shown is printed also where that cannot be done."""
    from launcher.runs import certificate

    try:
        for file in certificate.keep(made, runs):
            say(f"kept as {file}")
    except OSError as error:
        say(f"warning: {certificate.FILE} cannot be written below {runs}: {error.strerror}")


def _plan(given: options.Prove, words: list[str], name: str = "") -> Plan:
    """The plan of the job with these settings over those of the command line. Raises SpecError for a pipeline."""
    from launcher.errors import SpecError
    from launcher.submission import pipelines

    stages = shared.load_stages(given.job, given, words)
    if stages.name:
        raise SpecError("prove is for jobs, not for a pipeline", hint="prove a stage's job")
    suffix = "-".join(filter(None, (given.name, name)))
    return pipelines.plan_all(stages, shared.planner(suffix), given.scheduler)[""]

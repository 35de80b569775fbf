"""A run once more, as a new run: the same plan, on the same code, data, image and packages, or not at all.

Owns what must be as it was; how a plan is read back is planning/recorded.py's, and what it was made of runs/lock.py's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import schedulers
from launcher.errors import PlanError, Problem, RunNotFoundError
from launcher.images.facts import Facts
from launcher.planning import code_files, recorded, workspace
from launcher.rendering import own_image
from launcher.runs import differences, lock, record
from launcher.submission import snapshot, submit

if TYPE_CHECKING:
    from launcher.planning.code import Code
    from launcher.planning.plan import Plan
    from launcher.runs.record import Run

_MOST = 12  # differences that a message names
# What may differ and the run is still the same: the same programs in another commit, or from another shell.
_NOTED = ("launcher", "code.commit", "shell.")


class Prepared(NamedTuple):
    """The plan in its own folder, and what is not as it was."""

    plan: Plan
    changed: list[str]


def plan_of(run: Run) -> Plan:
    """The plan of `run`, for a folder beside its own. Raises PlanError where its plan.json is not one."""
    site = workspace.here()._replace(runs=str(run.folder.parent))
    then, record_of = lock.read(run.folder), record.read_json(run.folder / "plan.json")
    cluster = record_of.get("cluster") if isinstance(record_of, dict) else None
    if not isinstance(cluster, dict):
        raise PlanError(f"{run.id}: its plan.json is not one that this launcher reads")
    if (python := (then.get("python") or {}).get("path")) and "python" not in cluster:
        site = site._replace(python=str(python))
    plan = recorded.plan(record_of, then.get("spellings") or {}, site)
    return plan._replace(code=_code(run.folder), image_facts=_image_facts(run, then))


def _image_facts(run: Run, then: dict[str, Any]) -> Facts | None:
    """What was known of the image, as far as a rerun needs it: that it is one of this project's, with its versions."""
    if not (then.get("image") or {}).get("ours"):
        return None
    return Facts(
        source=f"{run.folder}/{lock.FILE}",
        flavour="",
        cuda="",
        ops={},
        level="",
        compiler=True,
        revision=str((then.get("code") or {}).get("docker") or ""),
        versions=then.get("packages") or {},
    )


def _code(folder: Path) -> Code | None:
    """The snapshot of the run before, and not the code as it is now."""
    if not (folder / own_image.CODE).is_dir():
        return None
    facts = record.read_json(folder / snapshot.FACTS)
    if not isinstance(facts, dict) or not isinstance(facts.get("paths"), list):
        raise PlanError(f"{folder / snapshot.FACTS} does not say what the run's code was")
    paths = [str(path) for path in facts["paths"]]
    return code_files.of_snapshot(folder / own_image.CODE, str(facts.get("program") or ""), paths)


def prepare(run: Run, force: bool) -> Prepared:
    """A folder for `run` once more. With `force` also where code, data, image or packages have changed.

    Raises RunNotFoundError without a lock.json, and PlanError for what is gone or has changed, with nothing left
    behind.
    """
    then = lock.read(run.folder)
    if not then:
        raise RunNotFoundError(
            f"{run.id} has no lock.json: an earlier version submitted it",
            hint="submit its job again",
        )
    plan = plan_of(run)
    gone = list(_gone(then, run))
    if gone:
        raise PlanError(*gone)
    on = schedulers.load(run.scheduler)
    prepared = submit.prepare(on, run.scheduler, plan)
    try:
        changed = _changed(then, lock.read(Path(prepared.folder)))
        serious = [what for what in changed if not what.startswith(_NOTED)]
        if serious and not force:
            raise PlanError(*(Problem(f"{run.id}: {what}") for what in serious[:_MOST]), _advice())
    except BaseException:
        record.abandon(prepared)
        raise
    return Prepared(prepared, changed)


def start(run: Run, plan: Plan) -> Run:
    """Submit what `prepare` made. Returns the new run; raises what submitting raises, with nothing left behind."""
    try:
        return submit.submit(schedulers.load(run.scheduler), run.scheduler, plan)
    except BaseException as error:
        submit.abandon_refused(plan, error)
        raise


def _gone(then: dict[str, Any], run: Run) -> list[Problem]:
    """What the run had and is not there any more."""
    problems = []
    code = then.get("code") or {}
    copy = run.folder / own_image.CODE
    if code.get("snapshot") and not copy.is_dir():
        problems.append(Problem(f"{run.id}: its code is gone: {copy}"))
    program = code.get("program") or {}
    if program and not Path(str(program.get("path"))).exists():
        problems.append(Problem(f"{run.id}: its program is gone: {program.get('path')}"))
    for entry in then.get("data") or ():
        if entry.get("fingerprint") and not Path(str(entry.get("host") or entry.get("path"))).exists():
            problems.append(Problem(f"{run.id}: {entry.get('named')} is gone: {entry.get('path')}"))
    python = then.get("python") or {}
    if python.get("version") and not Path(str(python.get("path"))).exists():  # else only the hosts have it
        problems.append(Problem(f"{run.id}: its interpreter is gone: {python.get('path')}"))
    return problems


def _changed(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    told = differences.locks({**then, "hosts": []}, now)
    return [f"{d.what} has changed: {_short(d.one)} then, {_short(d.other)} now" for d in told]


def _short(value: Any) -> str:
    return "nothing" if value in (None, "") else str(value)[:60]


def _advice() -> Problem:
    return Problem("it would not be the same run", "bring back what it had, or add --force")

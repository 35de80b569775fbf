"""A proof from its first run to what it has shown: which runs there are, in which order, and what is compared.

Owns the order. An undisturbed run comes first; then one is interrupted, and started again after each interruption. When
it has saved on SIGTERM, a third one goes on from its checkpoint with another number of ranks.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from launcher import entry, workloads
from launcher.errors import LauncherError
from launcher.runs import evidence
from launcher.runs.certificate import Certificate, Part
from launcher.submission import proving, submit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.status import Status
    from launcher.submission.proving import Interruption

WHOLE, CUT, MOVED = "undisturbed", "interrupted", "moved"


class Course(NamedTuple):
    """How a job is proven. `settings`: those of the first two runs; `other`: those of other ranks, and `why` not.

    `left_out`: fields of the job that its runs have not.
    """

    scheduler: str
    steps: int
    kills: int
    own: bool
    ways: list[Interruption]
    settings: dict[str, list[str]]
    other: list[str]
    why: str
    left_out: list[str]


def course(plan: Plan, scheduler: str, steps: int | None, kills: int) -> Course:
    """How the job of `plan` is proven. Raises PlanError where there are too few steps."""
    own, on_signal = workloads.is_script(plan.job.workload), plan.job.signal != "none"
    steps = max(16, 4 * (kills + 3)) if steps is None else steps
    ways = proving.interruptions(steps, kills, on_signal)
    words = proving.settings(plan, steps)
    cut = words if own else [*words, proving.interrupted(ways)]
    other: list[str] = []
    if own or not workloads.converts(plan.job.workload, plan.args):
        why = f"{plan.job.workload} does not go on from a checkpoint of another number of ranks"
    elif not (other := proving.other_ranks(plan)):
        why = "its batch can be divided by no other number of ranks here"
    else:
        why = ""
    return Course(
        scheduler=scheduler,
        steps=steps,
        kills=kills,
        own=own,
        ways=ways,
        settings={WHOLE: words, CUT: cut},
        other=[*words, *other] if other else [],
        why=why,
        left_out=proving.left_out(plan),
    )


@dataclass
class Proof:
    """A proof on its way. `plan_of`: the plan of the moved run with these settings; `told`: by the undisturbed run."""

    way: Course
    plans: Mapping[str, Plan]
    plan_of: Callable[[list[str]], Plan]
    say: Callable[[str], None]
    notes: list[str] = field(default_factory=list)
    told: evidence.Evidence = field(default_factory=lambda: evidence.Evidence([], [], {}))

    def made(self) -> Certificate:
        """Make the runs and compare them. Raises what submitting raises, and PlanError for too few steps."""
        if self.way.left_out:
            self.notes.append(f"runs without {', '.join(self.way.left_out)}, of which nothing is shown")
        if self.way.why:
            self.notes.append(f"not moved to other ranks: {self.way.why}")
        parts = [self._undisturbed()]
        if not parts[0].problem:
            if self.way.own:
                self._cut_own_steps()
            parts += self._disturbed()
        return Certificate(
            job=self.plans[WHOLE].job.name,
            scheduler=self.way.scheduler,
            steps=self.way.steps,
            parts=parts,
            notes=self.notes,
            made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def _undisturbed(self) -> Part:
        self.say("an undisturbed run" + ("" if self.way.own else f" of {self.way.steps} steps"))
        plan = self.plans[WHOLE]
        run = submit.start(self.way.scheduler, plan)
        now, self.told = proving.ended(run), evidence.read(run.folder)
        problem = _failed(run, now)
        if not problem and not self.told.losses:
            problem = "it has told no loss: print lines such as `step 12 loss 3.21`, or write metrics.jsonl"
        return Part(WHOLE, run.id, ranks=plan.world_size, exits=[_exit(now)], checks=[], problem=problem)

    def _cut_own_steps(self) -> None:
        """A program of one's own makes as many steps as it wants; only now are they known."""
        last = self.told.last
        ways = proving.interruptions(last, self.way.kills, self.plans[CUT].job.signal != "none")
        self.way = self.way._replace(steps=last, ways=ways)
        self.notes.append(
            "of a program of one's own the losses that it prints are compared, and nothing else"
        )

    def _disturbed(self) -> list[Part]:
        """The interrupted run, and the moved one where there is one."""
        self.say("a run that is interrupted: " + ", ".join(map(str, self.way.ways)))
        run, exits, problem = submit.start(self.way.scheduler, self.plans[CUT]), list[str](), ""
        moved: list[Part] = []
        for ordered in self.way.ways:
            now = proving.ended(run, proving.Outside(run, ordered) if self.way.own else proving.nothing)
            exits.append(f"{ordered}: {_exit(now)}")
            if now.state == "SUCCEEDED":
                problem = f"it was done before {ordered} came: make it longer, by --steps or its own options"
                break
            if ordered.how == "TERM" and self.way.other:
                moved = self._moved(run, ordered.step)
            run = submit.resume(run, ())
        else:
            now = proving.ended(run)
            exits.append(_exit(now))
            problem = _failed(run, now)
        checks = [] if problem else evidence.compare(self.told, evidence.read(run.folder))
        return [
            Part(CUT, run.id, ranks=self.plans[CUT].world_size, exits=exits, checks=checks, problem=problem),
            *moved,
        ]

    def _moved(self, older: Run, step: int) -> list[Part]:
        """A run with other ranks from the newest checkpoint of `older`, which does not run now."""
        try:
            plan = self.plan_of([*self.way.other, f"checkpoint.resume={older.id}"])
        except LauncherError as error:
            self.notes.append(f"not moved to other ranks: {error.problems[0].message}")
            return []
        self.say(f"a run that goes on from step {step} with another number of ranks: {plan.world_size}")
        run = submit.start(self.way.scheduler, plan)
        now = proving.ended(run)
        problem, bound = _failed(run, now), proving.BOUNDS[plan.precision]
        checks = [] if problem else evidence.compare(self.told, evidence.read(run.folder), bound, step)
        return [
            Part(
                MOVED,
                run.id,
                ranks=plan.world_size,
                exits=[_exit(now)],
                checks=checks,
                after=step,
                problem=problem,
            )
        ]


def tidy(made: Certificate, runs: Path) -> list[Path]:
    """Delete what the runs of a proof have saved, once it is proven; returns the folders. Nothing else is touched.

    What is not proven stays to be looked at.
    """
    if not made.proven:
        return []
    gone = [runs / part.run / entry.module("workloads.checkpoint_folder").FOLDER for part in made.parts]
    gone = [folder for folder in gone if folder.is_dir() and not folder.is_symlink()]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    return gone


def _failed(run: Run, now: Status) -> str:
    if now.state == "SUCCEEDED":
        return ""
    return f"it ended with {_exit(now)}: see `python -m launcher status {run.id}`"


def _exit(now: Status) -> str:
    return str(now.exit_code) if now.exit_code is not None else now.state.lower()

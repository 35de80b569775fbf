"""checkpoints: list those of a run, compare them with their digests, export a model, delete old ones."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import shared
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from launcher.cli import options
    from launcher.runs.checkpoints import Saved
    from launcher.runs.record import Run


def checkpoints(given: options.Checkpoints) -> int:
    """RUN alone, or with --verify, --export DIR, --keep N."""
    from launcher.errors import SpecError

    if given.step is not None and not given.export:
        raise SpecError("--step needs --export: it says which checkpoint is exported")
    pipeline = shared.find(given.run)
    if given.export:
        return _export(given, pipeline.present)
    if given.keep is not None:
        return _prune(given, pipeline.present)
    return _list(given, pipeline.present)


def _list(given: options.Checkpoints, runs: list[Run]) -> int:
    from launcher.errors import PlanError
    from launcher.runs import checkpoints as kept
    from launcher.runs import mirrored

    found: list[Saved] = []
    for run in runs:
        here = kept.listed(run)
        there = mirrored.alone(run, here)
        if given.verify:
            here = [kept.verify(saved, _reading) for saved in here]
            there = [mirrored.verify(run, saved, _reading) for saved in there]
        found += sorted([*here, *there], key=lambda saved: saved.step, reverse=True)
    if given.verify:
        _reading("")
    _show(given, runs, found)
    damaged = [saved for saved in found if saved.state == "damaged"]
    if given.verify and damaged:
        raise PlanError(
            f"{len(damaged)} of {len(found)} checkpoints are damaged",
            hint="`python -m launcher resume RUN` takes the newest that is sound",
        )
    return OK


def _show(given: options.Checkpoints, runs: list[Run], found: list[Saved]) -> None:
    from launcher.reports import checkpoint_tables, tables

    if given.json:
        print(tables.dump([checkpoint_tables.data(saved) for saved in found]))
    elif found:
        print(checkpoint_tables.table(found, several=len(runs) > 1))
    else:
        print(f"no checkpoints in {', '.join(str(run.folder) for run in runs)}")
        if any(run.scheduler == "kubernetes" for run in runs):
            print(
                "those of a run on Kubernetes are on the claim of kubernetes.runs: `fetch RUN checkpoints DIR`"
            )


def _prune(given: options.Checkpoints, runs: list[Run]) -> int:
    from launcher import schedulers, units
    from launcher.errors import PlanError, SpecError
    from launcher.runs import checkpoints as kept
    from launcher.runs.status import ENDED

    assert given.keep is not None
    if given.keep < 1:
        raise SpecError(f"--keep {given.keep}: at least the newest is kept", hint="give a number from 1")
    for run in runs:
        state = schedulers.load(run.scheduler).status(run).state
        if state not in ENDED:
            raise PlanError(
                f"{run.id} is {state}: its ranks write and delete checkpoints themselves",
                hint="set checkpoint.keep, or wait until it has ended",
            )
    gone = [saved for run in runs for saved in kept.prune(run, given.keep, _reading)]
    _reading("")
    if given.json:
        _show(given, runs, gone)
    for saved in gone:
        say(f"{saved.run}: {saved.tag} deleted, {units.gigabytes(saved.bytes)}")
    if not gone and not given.json:
        say("nothing to delete")
    return OK


def _export(given: options.Checkpoints, runs: list[Run]) -> int:
    import contextlib
    import importlib.util
    import os
    import subprocess
    from pathlib import Path

    from launcher import ROOT
    from launcher.errors import PlanError, RunNotFoundError, SpecError, ToolMissingError
    from launcher.runs import checkpoints as kept
    from launcher.runs import mirrored

    if len(runs) > 1:
        hint = f"name one: {', '.join(run.id for run in runs)}"
        raise SpecError(f"{given.run} is a pipeline: each of its runs has checkpoints of its own", hint=hint)
    output = Path(str(given.export))
    if output.exists() or output.is_symlink():
        raise SpecError(f"--export {output} exists; nothing is overwritten", hint="name a new folder")
    if not output.parent.is_dir():
        raise SpecError(f"--export {output}: there is no folder {output.parent}", hint="make it first")
    missing = [name for name in ("torch", "transformers", "deepspeed") if not importlib.util.find_spec(name)]
    if missing:
        place = "CHECKPOINT"
        with contextlib.suppress(RunNotFoundError):  # it is at the mirror alone
            place = str(kept.choose(runs[0], given.step).folder)
        by_hand = f"python -m workloads.export {place} {output}"
        hint = f"run it where they are, such as in the image: {by_hand}"
        raise ToolMissingError(f"an export needs {', '.join(missing)}", hint=hint)
    with mirrored.nearest(runs[0], given.step, output.parent, say) as (tag, folder):
        words = ["-m", "workloads.export", str(folder), str(output)]
        code = {**os.environ, "PYTHONPATH": str(ROOT / "docker")}
        # its words are for people: stdout stays empty
        done = subprocess.run([sys.executable, *words], env=code, stdout=sys.stderr, check=False)
    if done.returncode:
        raise PlanError(f"{tag} of {runs[0].id} was not exported", hint="see the lines above")
    say(f"{tag} of {runs[0].id} exported to {output}")
    return OK


def _reading(name: str) -> None:
    """Say on a terminal which file is read; an empty name ends it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{name}")
        sys.stderr.flush()

"""Sweeps: every combination of some settings, each a run of its own, and the table of what came out.

Owns the words of `--sweep`, the folder `<runs>/<sweep>/sweep.json` and the result table; the runs are ordinary ones.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher import logfiles, runs, schedulers
from launcher.errors import RunNotFoundError, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Point = tuple[str, ...]  # settings, as `--set` takes them
_RECORD = "sweep.json"
_MOST = 1000  # Slurm's default MaxArraySize is 1001


@dataclass(frozen=True)
class Sweep:
    """Run i of `runs` has the settings i of `points`."""

    id: str
    folder: Path
    runs: tuple[str, ...]
    points: tuple[Point, ...]


def points(words: Sequence[str]) -> list[Point]:
    """Every combination of `KEY=VALUE,VALUE…` words, the last one changing fastest.

    Commas inside brackets, braces or quotes do not separate. Raises SpecError.
    """
    choices = []
    for word in words:
        key, equals, values = word.partition("=")
        found = list(_split(values))
        if not key or not equals or not all(found):
            raise SpecError(f"--sweep {word!r} is not KEY=VALUE,VALUE", hint="such as args.lr=1e-4,3e-4")
        choices.append([f"{key}={value}" for value in found])
    made = list(itertools.product(*choices))
    if len(made) > _MOST:
        raise SpecError(f"--sweep: {len(made)} runs are more than {_MOST}", hint="sweep in parts")
    return made


def _split(text: str) -> Iterator[str]:
    depth, quote, start = 0, "", 0
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            yield text[start:index]
            start = index + 1
    yield text[start:]


def reserve(folder: Path, name: str, ids: Sequence[str], chosen: Sequence[Point]) -> Sweep:
    """A sweep with a folder of its own, and its record in it."""
    number = 1
    while True:
        made = folder / f"{name}-sweep-{number}"
        try:
            made.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            break
    sweep = Sweep(made.name, made, tuple(ids), tuple(chosen))
    record = {"id": sweep.id, "runs": [{"run": r, "settings": p} for r, p in zip(ids, chosen, strict=True)]}
    runs.write_files(made, {_RECORD: json.dumps(record, indent=1) + "\n"})
    return sweep


def abandon(sweep: Sweep) -> None:
    """Remove the folder of a sweep that was never submitted."""
    shutil.rmtree(sweep.folder, ignore_errors=True)


def named(folder: Path, name: str) -> Sweep | None:
    """The sweep that `name` names, if any does."""
    return (
        find(folder, name)
        if any(p.parent.name.startswith(name) for p in folder.glob(f"*/{_RECORD}"))
        else None
    )


def find(folder: Path, name: str) -> Sweep:
    """The sweep whose id is `name` or starts with it alone. Raises RunNotFoundError."""
    every = sorted(path.parent.name for path in folder.glob(f"*/{_RECORD}"))
    matches = [name] if name in every else [other for other in every if name and other.startswith(name)]
    if len(matches) != 1:
        hint = f"sweeps here: {', '.join(every[-10:])}" if every else "submit one with --sweep"
        raise RunNotFoundError(f"{'no' if not matches else 'more than one'} sweep {name!r}", hint=hint)
    try:
        data = json.loads((folder / matches[0] / _RECORD).read_text(encoding="utf-8"))
        pairs = [(str(entry["run"]), tuple(map(str, entry["settings"]))) for entry in data["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunNotFoundError(f"{folder / matches[0] / _RECORD} cannot be read") from None
    return Sweep(matches[0], folder / matches[0], tuple(r for r, _ in pairs), tuple(p for _, p in pairs))


def results(sweep: Sweep) -> list[dict[str, Any]]:
    """A record a run: run, settings, state, step, loss, eval_loss, tokens_per_second; None for what is not there."""
    found = [runs.find(sweep.folder.parent, name) for name in sweep.runs]
    made = []
    for run, point, now in zip(found, sweep.points, schedulers.statuses(found), strict=True):
        records, _ = logfiles.metrics(run.folder)
        steps = [r for r in records if "event" not in r and "loss" in r]
        evaluated = [r for r in records if r.get("event") == "eval"]
        last = steps[-1] if steps else {}
        made.append(
            {
                "run": run.id,
                "settings": dict(setting.split("=", 1) for setting in point),
                "state": now.state,
                "step": last.get("step"),
                "loss": last.get("loss"),
                "eval_loss": evaluated[-1].get("loss") if evaluated else None,
                "tokens_per_second": last.get("tokens_per_second"),
            }
        )
    return made

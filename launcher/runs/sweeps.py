"""Sweeps: every combination of some settings, each a run of its own, and the table of what came out.

Owns the words of `--sweep`, the folder `<runs>/<sweep>/sweep.json` and the result table; the runs are ordinary ones.
"""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.errors import RunNotFoundError, SpecError
from launcher.runs import record as runs_record

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
    runs_record.write_files(made, {_RECORD: json.dumps(record, indent=1) + "\n"})
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

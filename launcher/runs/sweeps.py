"""Sweeps: every combination of some settings, each a run of its own.

Owns the words of `--sweep` and `<runs>/<sweep>/sweep.json`; the runs are ordinary ones.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from typing import TYPE_CHECKING

from launcher.errors import RunNotFoundError, SpecError
from launcher.frozen import dataclass
from launcher.runs import folders, record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Point = tuple[str, ...]  # settings, as `--set` takes them
RECORD = "sweep.json"
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
    choices: dict[str, list[str]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        split = list(_split(values))
        if not key or not equals or not all(split):
            raise SpecError(f"--sweep {word!r} is not KEY=VALUE,VALUE", hint="such as args.lr=1e-4,3e-4")
        if key in choices:
            raise SpecError(f"--sweep {key} is given twice", hint="give its values in one --sweep")
        choices[key] = [f"{key}={value}" for value in split]
    count = math.prod(map(len, choices.values()))
    if count > _MOST:
        raise SpecError(f"--sweep: {count} runs are more than {_MOST}", hint="sweep in parts")
    return list(itertools.product(*choices.values()))


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


def reserve(runs: Path, name: str, ids: Sequence[str], chosen: Sequence[Point]) -> Sweep:
    """A sweep with a folder of its own, and its record in it."""
    folder = folders.make_next(runs, f"{name}-sweep")
    sweep = Sweep(folder.name, folder, tuple(ids), tuple(chosen))
    data = {"id": sweep.id, "runs": [{"run": r, "settings": p} for r, p in zip(ids, chosen, strict=True)]}
    folders.write_files(folder, {RECORD: json.dumps(data, indent=1) + "\n"})
    return sweep


def abandon(sweep: Sweep) -> None:
    """Remove the folder of a sweep that was never submitted."""
    shutil.rmtree(sweep.folder, ignore_errors=True)


def read(path: Path) -> Sweep:
    """The sweep of a sweep.json. Raises RunNotFoundError when it cannot be read."""
    data = record.read_json(path)
    try:
        pairs = [(str(entry["run"]), tuple(map(str, entry["settings"]))) for entry in data["runs"]]
    except (KeyError, TypeError) as error:
        raise RunNotFoundError(f"{path} cannot be read: {record.why(error)}") from None
    keys = {tuple(word.partition("=")[0] for word in point) for _, point in pairs}
    if len(keys) != 1 or not all("=" in word for _, point in pairs for word in point):
        raise RunNotFoundError(f"{path} cannot be read: its runs have not the same settings")
    return Sweep(path.parent.name, path.parent, tuple(r for r, _ in pairs), tuple(p for _, p in pairs))

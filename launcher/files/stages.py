"""A pipeline's file as stages: a job file each, with what is set in it and the stages that it needs.

Owns which setting is for which stage; the file's fields are pipeline.py's, and the jobs are read by load.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.errors import Place, Problem
from launcher.files import paths
from launcher.files.pipeline import Pipeline, references
from launcher.files.settings import Setting, key_path
from launcher.files.validation import validate
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from launcher.files.document import Document, Keys, Reader


class Named(NamedTuple):
    """A cluster's name or path, where it was said, and the folder at which a path starts."""

    name: str
    place: Place
    beside: Path


class Stage(NamedTuple):
    """A job file with what is set in it. `needs`: the stages from whose run folders it starts.

    `place`: where a pipeline's file names it. `cluster`: the one that goes before the job's own.
    """

    name: str
    source: str
    place: Place | None
    settings: tuple[Setting, ...]
    needs: tuple[str, ...]
    cluster: Named | None
    reader: Reader


class Stages(NamedTuple):
    """A pipeline's stages, each after those it needs; of a plain job one, and no `name`."""

    name: str
    stages: tuple[Stage, ...]


def read(
    document: Document, given: Iterable[Setting], named: Named | None, reader: Reader
) -> tuple[Stages | None, list[Problem]]:
    """The stages of a pipeline's file, and what is wrong with it. `given`: the command line's settings.

    `named`: the command line's cluster. The stages' own files are read later, by `reader`.
    """
    problems: list[Problem] = []
    valid = validate(document, Pipeline, problems)
    problems += _problems(document)
    if valid is None:
        return None, problems
    shares = _shares(given, list(valid.pipeline), problems)
    start = paths.folder(document.source)
    if named is None and valid.cluster is not None:
        named = Named(valid.cluster, document.place(("cluster",)), start)
    stages = [
        Stage(
            name=name,
            source=str(start / entry.job),
            place=document.place(("pipeline", name, "job")),
            settings=(*_settings(document, name, entry.set), *shares[name]),
            needs=tuple(references(entry.set)),
            cluster=named,
            reader=reader,
        )
        for name, entry in valid.pipeline.items()
    ]
    return Stages(valid.name, tuple(stages)), problems


def _shares(given: Iterable[Setting], names: list[str], problems: list[Problem]) -> dict[str, list[Setting]]:
    """Stage → its share of the command line's `--set`: `sft.args.lr=1` is the stage's, `cluster.…` everybody's."""
    shares: dict[str, list[Setting]] = {name: [] for name in names}
    for setting in given:
        first, *rest = setting.keys
        if first == "cluster" and rest:
            for share in shares.values():
                share.append(setting)
        elif first in shares and rest:
            shares[first].append(setting.below(first))
        else:
            meant = f"{names[0]}.{'.'.join(setting.keys)}"
            hint = f"such as {meant} (stages: {', '.join(names)}; cluster.… is for all of them)"
            problems.append(Problem("a setting of a pipeline starts with its stage", hint, setting.place))
    return shares


def _problems(document: Document) -> Iterator[Problem]:
    """References to stages that are not before their own, and keys that no `--set` could have."""
    stages = document.data.get("pipeline")
    before: list[str] = []
    for stage, entry in stages.items() if isinstance(stages, dict) else ():
        given = entry.get("set") if isinstance(entry, dict) else None
        for key, value in given.items() if isinstance(given, dict) else ():
            place = document.place(("pipeline", stage, "set", key))
            if not key_path(key):
                yield Problem(f"set: {key!r} is no key path", "write it as for --set: batch.micro", place)
            for needed in references(value):
                if needed not in before:
                    known = f"stages before it: {', '.join(before)}" if before else "it is the first"
                    what = f"stage {stage} needs ${needed}, which is no stage before it"
                    yield Problem(what, f"{known}; $$ is a dollar sign", place)
        before.append(stage)


def _settings(document: Document, stage: str, given: Mapping[str, Any]) -> list[Setting]:
    """What a stage's `set:` changes in its job, with the places in the pipeline's file."""
    return [
        Setting(key_path(key), value, _below(document, ("pipeline", stage, "set", key)))
        for key, value in given.items()
    ]


def _below(document: Document, path: Keys) -> dict[Keys, Any]:
    return {keys[len(path) :]: at for keys, at in document.places.items() if keys[: len(path)] == path}

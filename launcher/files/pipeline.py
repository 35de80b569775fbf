"""A pipeline file: jobs that start one after the other, each from what earlier ones left in their run folders.

    name: chat
    pipeline:
      sft: {job: chat/sft.yaml}
      reward: {job: chat/reward.yaml, set: {model: $sft/export}}

Owns the file's words. `$sft` in a value is the run folder of the stage sft, and makes the stage wait for it, so the
order follows from the data. How stages are submitted is submission.pipelines'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.errors import Problem, SpecError, did_you_mean, shown
from launcher.files import document as files_document
from launcher.files import fields

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.document import Document

_KEYS, _STAGE_KEYS = ("name", "cluster", "pipeline"), ("job", "set")
_REFERENCE = re.compile(r"\$(?:(\$)|(\w[-\w]*)|\{(\w[-\w]*)\})")


class Stage(NamedTuple):
    """One job: its file, and what is set in it, as `--set` takes it. `needs` are the stages it starts from."""

    name: str
    job: str
    settings: dict[str, Any]
    needs: tuple[str, ...]

    def words(self, folders: Mapping[str, str]) -> list[str]:
        """The settings as `--set` takes them, with the run folders of the stages that they name."""
        return [f"{key}={json.dumps(_filled(value, folders))}" for key, value in self.settings.items()]


class Pipeline(NamedTuple):
    """Stages in an order in which each comes after those it needs."""

    name: str
    cluster: str | None
    stages: tuple[Stage, ...]


def is_one(path: str) -> bool:
    """Whether the file at `path` is a pipeline rather than a job: it has `pipeline:` at the top."""
    try:
        text = files_document.find(path).read_text(encoding="utf-8")
    except (OSError, ValueError):  # told when it is read as a job
        return False
    return re.search(r"^pipeline[ \t]*:", text, re.MULTILINE) is not None


def read(path: str) -> Pipeline:
    """The pipeline at `path`. Raises SpecError with all its problems; the jobs themselves are read later."""
    document = files_document.read(files_document.find(path), path)
    problems = list(_problems(document))
    if problems:
        raise SpecError(*problems)
    data, folder = document.data, Path(path).parent
    stages = [
        Stage(name, str(folder / given["job"]), given.get("set") or {}, tuple(_references(given.get("set"))))
        for name, given in data["pipeline"].items()
    ]
    return Pipeline(data["name"], data.get("cluster"), tuple(stages))


def shared(given: Sequence[str], stages: Sequence[Stage]) -> dict[str, list[str]]:
    """Stage → its share of the command line's `--set`: `sft.args.lr=1` is the stage's, `cluster.…` everybody's.

    Raises SpecError for a setting that names no stage.
    """
    names = [stage.name for stage in stages]
    made: dict[str, list[str]] = {name: [] for name in names}
    for setting in given:
        first, dot, rest = setting.partition(".")
        if first == "cluster":
            for settings in made.values():
                settings.append(setting)
        elif first in made and dot:
            made[first].append(rest)
        else:
            hint = f"start with a stage ({', '.join(names)}) or with cluster, such as {names[0]}.{setting}"
            raise SpecError(f"--set {setting}: which stage?", hint=hint)
    return made


def schema() -> dict[str, Any]:
    """The JSON Schema of a pipeline file, for editors."""
    stage = {
        "type": "object",
        "properties": {
            "job": {"type": "string", "description": "A job file; a path starts at this file's folder."},
            "set": {
                "type": "object",
                "description": "Fields of the job, as --set names them; $STAGE is that stage's run folder.",
            },
        },
        "required": ["job"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pipeline",
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": fields.NAME},
            "cluster": {
                "type": "string",
                "description": "Where all stages run, instead of their own cluster.",
            },
            "pipeline": {"type": "object", "minProperties": 1, "additionalProperties": stage},
        },
        "required": ["name", "pipeline"],
        "additionalProperties": False,
    }


def _problems(document: Document) -> Iterator[Problem]:
    data = document.data
    for key in data.keys() - set(_KEYS):
        hint = did_you_mean(key, _KEYS)
        yield Problem(f"unknown key {key!r} of a pipeline", hint, document.place((key,)))
    name, cluster, stages = data.get("name"), data.get("cluster"), data.get("pipeline")
    if not isinstance(name, str) or not fields.is_name(name):
        hint = "use lower case letters, digits and '-', starting with a letter"
        yield Problem(f"name: {shown(name)} is not a valid name", hint, document.place(("name",)))
    if cluster is not None and not isinstance(cluster, str):
        yield Problem(f"cluster: text is expected, not {shown(cluster)}", "", document.place(("cluster",)))
    if not isinstance(stages, dict) or not stages:
        hint = "such as pipeline: {sft: {job: chat/sft.yaml}}"
        yield Problem("pipeline: stages are expected, each with its job", hint, document.place(("pipeline",)))
        return
    before: list[str] = []
    for stage, given in stages.items():
        yield from _stage_problems(document, stage, given, before)
        before.append(stage)


def _stage_problems(document: Document, stage: str, given: Any, before: list[str]) -> Iterator[Problem]:
    place = document.place(("pipeline", stage))
    if not fields.is_name(stage) or stage == "cluster":
        yield Problem(
            f"{stage!r} is not a valid name of a stage", "use lower case letters, digits and '-'", place
        )
    if not isinstance(given, dict) or not isinstance(given.get("job"), str):
        yield Problem(f"stage {stage} has no job", "write {job: FILE}", place)
        return
    for key in given.keys() - set(_STAGE_KEYS):
        hint = did_you_mean(key, _STAGE_KEYS)
        yield Problem(f"unknown key {key!r} of a stage", hint, document.place(("pipeline", stage, key)))
    settings = given.get("set")
    if settings is not None and not isinstance(settings, dict):
        yield Problem(
            "set: `key.path: value` lines are expected", "", document.place(("pipeline", stage, "set"))
        )
        return
    for needed in _references(settings):
        if needed not in before:
            hint = f"stages before it are {', '.join(before)}; $$ is a dollar sign" if before else ""
            hint = hint or "it is the first; $$ is a dollar sign"
            where = document.place(("pipeline", stage, "set"))
            yield Problem(f"stage {stage} needs ${needed}, which is no stage before it", hint, where)


def _references(value: Any) -> list[str]:
    """The stages that a value names, each once, in order."""
    if isinstance(value, str):
        found = [match[2] or match[3] for match in _REFERENCE.finditer(value)]
        return list(dict.fromkeys(filter(None, found)))
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return list(dict.fromkeys(name for entry in inside for name in _references(entry)))


def _filled(value: Any, folders: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda m: "$" if m[1] else folders[m[2] or m[3]], value)
    if isinstance(value, Mapping):
        return {key: _filled(entry, folders) for key, entry in value.items()}
    return [_filled(entry, folders) for entry in value] if isinstance(value, list) else value

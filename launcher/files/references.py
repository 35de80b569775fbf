"""What a file's words refer to: workload and its options, preset and DeepSpeed's keys, model, fabric.

Owns the problems that need those tables; kinds and ranges of the fields are checked by validation.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher import workloads
from launcher.deepspeed import config
from launcher.deepspeed import keys as deepspeed_keys
from launcher.errors import Problem, SpecError, did_you_mean, shown
from launcher.fabrics import FABRICS
from launcher.files import mixture, own_program, paths
from launcher.files.cluster import Cluster
from launcher.files.job import Job
from launcher.sizing import models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.files.document import Document, Keys


_CLUSTER: dict[Keys, Callable[[], Sequence[str]]] = {
    ("fabric",): lambda: sorted(FABRICS),
}
_JOB: dict[Keys, Callable[[], Sequence[str]]] = {
    ("workload",): workloads.names,
    ("deepspeed",): lambda: ("auto", *config.presets()),
    ("deepspeed", "preset"): lambda: ("auto", *config.presets()),
}


# where to see the names, of which there are too many for a message
_LISTED = {"fabric": "see `launcher env`"}


def problems(document: Document, model: type) -> Iterator[Problem]:
    """Names that do not exist, and options and keys that a workload or DeepSpeed does not take."""
    data = document.data
    tables = {Job: _JOB, Cluster: _CLUSTER}
    for keys, known in tables.get(model, {}).items():
        value: Any = data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if keys == ("workload",) and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or (keys == ("workload",) and workloads.is_script(value)):
            continue
        if value not in known():
            what = keys[-1] if keys != ("deepspeed",) else "preset"
            hint = did_you_mean(value, known()) or _LISTED.get(str(what), "")
            if keys[0] == "deepspeed" and value.endswith(".json"):
                hint = "write the file's keys here: deepspeed: {zero_optimization: {stage: 2}}"
            yield Problem(f"unknown {what} {shown(value)}", hint, document.place(keys))
    if model in tables:
        yield from _environment_problems(document)
    if model is Job:
        yield from _program_problems(document)
        yield from _batch_problems(document)
        yield from _model_problems(document)
        yield from _args_problems(document)
        yield from _deepspeed_problems(document)


def _environment_problems(document: Document) -> Iterator[Problem]:
    """Variables with neither a value nor a secret: a forgotten name would drop the token."""
    environment = document.data.get("env")
    for name, variable in environment.items() if isinstance(environment, dict) else ():
        if isinstance(variable, dict) and all(part is None for part in variable.values()):
            what = f"env.{name} has neither a value nor a secret's name"
            yield Problem(what, "add one, or write null to leave it out", document.place(("env", name)))


def _program_problems(document: Document) -> Iterator[Problem]:
    """A workload that Python cannot run, such as a command line."""
    yield from own_program.problems(document)
    workload = document.data.get("workload")
    if isinstance(workload, str) and workloads.is_script(workload):
        what, hint = workloads.script_problem(workload)
        if what:
            yield Problem(f"workload {shown(workload)} {what}", hint, document.place(("workload",)))


def _batch_problems(document: Document) -> Iterator[Problem]:
    """A job without `batch`, although its workload takes DeepSpeed's configuration, of which that is a part."""
    workload = own_program.workload(document)
    known = workloads.is_script(workload) or workload in workloads.names()
    steps = not known or (workload != workloads.COMMAND and workloads.steps(workload))
    if "batch" not in document.data and steps:
        hint = "add `batch:` (batch: {micro: 4, global: 64})"
        yield Problem("batch is missing", hint, document.place(("batch",)))


def _model_problems(document: Document) -> Iterator[Problem]:
    """A model that is neither a name nor a local model nor a hub name, or that is not a language model."""
    named = document.data.get("model")
    if isinstance(named, (int, float)) and not isinstance(named, bool):
        named = str(named)
    if isinstance(named, str) and workloads.traits(own_program.workload(document)).estimated:
        try:
            path = paths.model(named, paths.folder(document.source))
            models.load_if_here(path, encoders=workloads.traits(own_program.workload(document)).encoders)
        except SpecError as error:
            for problem in error.problems:
                yield Problem(problem.message, problem.hint, problem.place or document.place(("model",)))


def _deepspeed_problems(document: Document) -> Iterator[Problem]:
    """Keys that DeepSpeed does not know, or values that it cannot read."""
    section = document.data.get("deepspeed")
    if isinstance(section, dict):
        overrides = {key: value for key, value in section.items() if key != "preset"}
        workload = own_program.workload(document)
        for keys, problem in deepspeed_keys.problems(overrides, workload, document.deepspeed):
            if not document.is_unread(("deepspeed", *keys)):
                yield Problem(problem.message, problem.hint, document.place(("deepspeed", *keys)))


def _args_problems(document: Document) -> Iterator[Problem]:
    args, workload = document.data.get("args", {}), own_program.workload(document)
    if not isinstance(args, dict):
        return
    fitting = {}
    for key, value in args.items():
        if mixture.is_one(workload, key, value):
            if not (mixed := list(mixture.problems(document, value))):
                fitting[key] = value
            yield from mixed
            continue
        wrong = _argument_problem(key, value)
        if wrong:
            yield Problem(
                f"args.{key if key.isprintable() else repr(key)} {wrong}", "", document.place(("args", key))
            )
        else:
            fitting[key] = value
    if workload in workloads.names():
        for key, problem in workloads.problems(workload, fitting):
            yield Problem(problem.message, problem.hint, document.place(("args", key)))


def _argument_problem(key: str, value: object) -> str:
    """Why these cannot be an option and its value in any program, or an empty string."""
    if not re.fullmatch(r"[^-\s=\0][^\s=\0]*", key):
        return "is not an option's name; write it without dashes in front, blanks or ="
    values = value if isinstance(value, list) else [value]
    if any(isinstance(v, (dict, list)) for v in values):
        return f"must be one value or a list of values, not {shown(value)}"
    if isinstance(value, list) and any(v is None or isinstance(v, bool) for v in values):
        return f"must be a list of text or numbers, not {shown(value)}; quote what is text"
    if "--" in values:  # Python before 3.11.9: https://github.com/python/cpython/issues/109475
        return "cannot be '--': Python's option parser drops it"
    return ""

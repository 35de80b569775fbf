"""From the command line's words to a valid Job and Cluster, or every problem of both files at once.

Owns finding the files, `--set`, and the words of each message; fields and ranges are in job.py and cluster.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from launcher import ROOT, workloads
from launcher.deepspeed import config
from launcher.deepspeed import keys as deepspeed_keys
from launcher.errors import Place, Problem, SpecError, did_you_mean, shown
from launcher.fabrics import FABRICS
from launcher.files import cluster as files_cluster
from launcher.files import document as files_document
from launcher.files import job as files_job
from launcher.images import facts as images_facts
from launcher.sizing import gpus, models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.files.document import Document, Keys

Model = TypeVar("Model", files_job.Job, files_cluster.Cluster)


def load(
    path: str, cluster: str | None = None, settings: Sequence[str] = ()
) -> tuple[files_job.Job, files_cluster.Cluster]:
    """The job at `path` and the cluster it runs on, with `--set` `settings` applied.

    Raises SpecError with all problems of both files.
    """
    problems: list[Problem] = []
    document = _read(files_document.find(path), path, problems)
    job, site, named, place = None, None, cluster, Place("--cluster")
    if document:
        problems += _settings(document, [s for s in settings if not s.startswith("cluster.")])
        job = _validate(document, files_job.Job, problems)
        named = cluster or document.data.get("cluster")
        place = place if cluster else document.place(("cluster",))
    if isinstance(named, str):
        beside = Path() if cluster else Path(path).parent
        site = _cluster(named, beside, place, settings, problems)
    elif job:
        hint = f"add `cluster:` to the job, or --cluster NAME ({', '.join(cluster_names())})"
        problems.append(Problem("no cluster is named", hint, Place(path, 1, 1)))
    if job is None or site is None or problems:
        raise SpecError(*sorted(problems, key=lambda p: p.place or Place("")))
    return job, site


def _read(path: Path, source: str, problems: list[Problem]) -> Document | None:
    try:
        return files_document.read(path, source)
    except SpecError as error:
        problems += error.problems
        return None


def cluster_names() -> list[str]:
    """The clusters that ship with the project."""
    return sorted(p.stem for p in (ROOT / "jobs" / "clusters").glob("*.yaml"))


def _cluster(
    named: str, beside: Path, place: Place, settings: Sequence[str], problems: list[Problem]
) -> files_cluster.Cluster | None:
    if named.endswith((".yaml", ".yml")) or "/" in named:
        path, source = beside / named, str(beside / named)
        if not files_document.exists(path):
            hint = "check the path" if place.source == "--cluster" else "a path starts at the job's folder"
            problems.append(Problem(f"there is no cluster file {source}", hint, place))
            return None
    else:
        path = ROOT / "jobs" / "clusters" / f"{named}.yaml"
        source = f"jobs/clusters/{named}.yaml"
        if not files_document.exists(path):
            hint = did_you_mean(named, cluster_names())
            problems.append(Problem(f"unknown cluster {shown(named)}", hint, place))
            return None
    document = _read(path, source, problems)
    if document is None:
        return None
    ours = [s.removeprefix("cluster.") for s in settings if s.startswith("cluster.")]
    problems += _settings(document, ours, "cluster.")
    made = _validate(document, files_cluster.Cluster, problems)
    try:
        facts = images_facts.beside(path, source)
    except SpecError as error:
        problems += error.problems
        return None
    if made:
        made.holds(facts)
    return made


def _settings(document: Document, settings: Sequence[str], prefix: str = "") -> list[Problem]:
    problems: list[Problem] = []
    for setting in settings:
        try:
            files_document.override(document, setting, prefix)
        except SpecError as error:
            problems.extend(error.problems)
    return problems


def _validate(document: Document, model: type[Model], problems: list[Problem]) -> Model | None:
    """The model, or None with what is wrong added to `problems`."""
    found = list(_name_problems(document, model))
    made = None
    try:
        made = model.model_validate(document.data)
        made.written(document.places)
    except ValidationError as error:
        found += [_problem(e, document, model) for e in error.errors(include_url=False)]
    problems += found
    return None if found else made


def _name_problems(document: Document, model: type[Model]) -> Iterator[Problem]:
    """Names that must exist: workload, preset, fabric, GPU, and the workload's own options."""
    data = document.data
    tables: dict[Keys, Callable[[], Sequence[str]]] = {
        ("fabric",): lambda: sorted(FABRICS),
        ("gpu",): lambda: sorted(gpus.names()),
    }
    if model is files_job.Job:
        tables = {
            ("workload",): workloads.names,
            ("deepspeed",): lambda: ("auto", *config.presets()),
            ("deepspeed", "preset"): lambda: ("auto", *config.presets()),
        }
    for keys, known in tables.items():
        value: Any = data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if keys == ("workload",) and isinstance(value, (int, float)):
            value = str(value)
        if not isinstance(value, str) or (keys == ("workload",) and workloads.is_script(value)):
            continue
        if value not in known():
            what = keys[-1] if keys != ("deepspeed",) else "preset"
            yield Problem(
                f"unknown {what} {shown(value)}", did_you_mean(value, known()), document.place(keys)
            )
    if model is files_job.Job:
        yield from _batch_problems(document)
        yield from _model_problems(document)
        yield from _args_problems(document)
        yield from _deepspeed_problems(document)


def _batch_problems(document: Document) -> Iterator[Problem]:
    """A job without `batch`, although its workload takes DeepSpeed's configuration, of which that is a part."""
    workload = str(document.data.get("workload", "pretrain"))
    known = workloads.is_script(workload) or workload in workloads.names()
    if "batch" not in document.data and (not known or workloads.steps(workload)):
        hint = "add `batch:` (batch: {micro: 4, global: 64})"
        yield Problem("batch is missing", hint, document.place(("batch",)))


def _model_problems(document: Document) -> Iterator[Problem]:
    """A model that is neither a name nor a local model nor a hub name, or that is not a language model."""
    named = document.data.get("model")
    workload = str(document.data.get("workload", "pretrain"))
    if isinstance(named, str) and workloads.traits(workload).estimated:
        try:
            models.load_if_here(named)
        except SpecError as error:
            for problem in error.problems:
                yield Problem(problem.message, problem.hint, problem.place or document.place(("model",)))


def _deepspeed_problems(document: Document) -> Iterator[Problem]:
    """Keys that DeepSpeed does not know, or values that it cannot read."""
    section = document.data.get("deepspeed")
    if isinstance(section, dict):
        overrides = {key: value for key, value in section.items() if key != "preset"}
        workload = str(document.data.get("workload", "pretrain"))
        for keys, problem in deepspeed_keys.problems(overrides, workload):
            yield Problem(problem.message, problem.hint, document.place(("deepspeed", *keys)))


def _args_problems(document: Document) -> Iterator[Problem]:
    args, workload = document.data.get("args", {}), str(document.data.get("workload", "pretrain"))
    if not isinstance(args, dict):
        return
    fitting = {}
    for key, value in args.items():
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


def _problem(error: Any, document: Document, model: type[Model]) -> Problem:
    is_key = "[key]" in error["loc"]
    keys: Keys = tuple(k for k in error["loc"] if k != "[key]")
    given, context, kind = error["input"], error.get("ctx", {}), error["type"]
    place = document.place(keys)
    if kind == "missing":
        return Problem(f"{_dotted(keys)} is missing", _description(model, keys), place)
    if kind == "extra_forbidden":
        return Problem(f"unknown key {_dotted(keys)!r}", _key_hint(model, keys), place)
    name = _dotted(keys[:-1] if is_key or not _is_written(document.data, keys) else keys)
    match kind:
        case "value_error":
            return Problem(f"{name}: {context['error']}", "", place)
        case "literal_error":
            choices = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            return Problem(f"{name}: {shown(given)} is not known", did_you_mean(str(given), choices), place)
        case "string_pattern_mismatch":
            what = f"{name}: {shown(given)} is not a valid name"
            return Problem(what, _pattern_hint(error["loc"]), place)
        case "string_too_long":
            what = f"{name}: {shown(given)} is longer than {context['max_length']} characters"
            return Problem(what, "shorten it", place)
        case kind if kind in _EXPECTED:
            what = f"{name}: {_EXPECTED[kind].format(**context)}, not {shown(given)}"
            return Problem(what, _value_hint(kind, given), place)
    return Problem(f"{name}: {error['msg']}", "", place)


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


def _is_written(data: Any, keys: Keys) -> bool:
    """Whether the file has `keys`: `deepspeed: zero3` stands for a `deepspeed.preset` that nobody wrote."""
    for key in keys[:-1]:
        if not isinstance(data, (dict, list)):
            return False
        data = data[key]  # type: ignore[index]
    return isinstance(data, (dict, list))


_EXPECTED = {
    "int_type": "a whole number is expected",
    "bool_type": "true or false is expected",
    "string_type": "text is expected",
    "dict_type": "`key: value` lines are expected",
    "model_type": "`key: value` lines are expected",
    "list_type": "a list is expected",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _value_hint(kind: str, given: object) -> str:
    if given is None:
        return "remove the key to get its default"
    quoted = kind == "int_type" and isinstance(given, str) and given.isdecimal()
    return "take the quotes away" if quoted else ""


def _pattern_hint(loc: tuple[Any, ...]) -> str:
    if "env" in loc and "[key]" in loc:
        return "a variable's name has letters, digits and _ and does not start with a digit"
    if loc[-1] in {"secret", "key"}:
        return "use letters, digits, '-', '_' and '.'"
    return "use lower case letters, digits and '-', starting with a letter, ending with a letter or digit"


def _key_hint(model: type[Model], keys: Keys) -> str:
    """Where an unknown key belongs, or which known one is meant."""
    key, other = str(keys[-1]), files_cluster.Cluster if model is files_job.Job else files_job.Job
    if len(keys) == 1 and key in _by_name(other):
        return f"it belongs in the {'cluster' if model is files_job.Job else 'job'} file"
    if keys == (key,) and model is files_job.Job and key.replace("_", "-") in workloads.known():
        return f"options of the workload go below `args:`: args: {{{key.replace('_', '-')}: …}}"
    return did_you_mean(key, _fields(model, keys[:-1]))


def _fields(model: Any, keys: Keys) -> set[str]:
    """The keys that the model at `keys` knows, as they are written in a file."""
    return set(_by_name(_below(model, keys)))


def _below(model: Any, keys: Keys) -> Any:
    for key in keys:
        info = _by_name(model).get(str(key))
        if info is not None:  # else the key of a mapping, such as a variable's name: same model below
            model = next((t for t in _types(info.annotation) if hasattr(t, "model_fields")), model)
    return model


def _by_name(model: Any) -> dict[str, Any]:
    return {f.alias or n: f for n, f in model.model_fields.items()}


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _types(inner)


def _description(model: type[Model], keys: Keys) -> str:
    info = _by_name(_below(model, keys[:-1])).get(str(keys[-1]))
    text = (info.description or "") if info else ""
    return f"add `{keys[-1]}:`" + (f" ({text[:1].lower()}{text[1:].rstrip('.')})" if text else "")

"""From the command line's words to a valid Job and Cluster, or every problem of both files at once.

Owns finding the files, `--set`, and the words of each message; fields and ranges are `spec`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from launcher import ROOT, deepspeed, gpus, nccl, spec, workloads, yamlfile
from launcher.errors import Place, Problem, SpecError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.yamlfile import Document, Keys

Model = TypeVar("Model", spec.Job, spec.Cluster)


def load(
    path: str, cluster: str | None = None, settings: Sequence[str] = ()
) -> tuple[spec.Job, spec.Cluster]:
    """The job at `path` and the cluster it runs on, with `--set` `settings` applied.

    Raises SpecError with all problems of both files.
    """
    job_file = yamlfile.read(_job_path(path), path)
    problems = _settings(job_file, [s for s in settings if not s.startswith("cluster.")])
    job = _validate(job_file, spec.Job, problems)
    named = cluster or (job.cluster if job else job_file.data.get("cluster"))
    site = None
    if isinstance(named, str):
        site = _cluster(named, Path() if cluster else Path(path).parent, job_file, settings, problems)
    elif job:
        problems.append(
            Problem("no cluster is named", "add `cluster:` to the job, or --cluster NAME", Place(path, 1, 1))
        )
    if problems:
        raise SpecError(*sorted(problems, key=lambda p: p.place or Place("")))
    assert job is not None
    assert site is not None
    return job, site


def _job_path(path: str) -> Path:
    found = Path(path)
    shipped = ROOT / path
    return shipped if not found.exists() and shipped.is_file() else found


def cluster_names() -> list[str]:
    """The clusters that ship with the project."""
    return sorted(p.stem for p in (ROOT / "jobs" / "clusters").glob("*.yaml"))


def _cluster(
    named: str, beside: Path, job_file: Document, settings: Sequence[str], problems: list[Problem]
) -> spec.Cluster | None:
    if named.endswith((".yaml", ".yml")) or "/" in named:
        path, source = beside / named, str(beside / named)
    else:
        path = ROOT / "jobs" / "clusters" / f"{named}.yaml"
        source = f"jobs/clusters/{named}.yaml"
        if not path.is_file():
            place = job_file.place(("cluster",)) if ("cluster",) in job_file.places else Place("--cluster")
            hint = did_you_mean(named, cluster_names()) or "or give a path that ends in .yaml"
            problems.append(Problem(f"unknown cluster {named!r}", hint, place))
            return None
    try:
        document = yamlfile.read(path, source)
    except SpecError as error:
        problems.extend(error.problems)
        return None
    ours = [s.removeprefix("cluster.") for s in settings if s.startswith("cluster.")]
    problems += _settings(document, ours, "cluster.")
    return _validate(document, spec.Cluster, problems)


def _settings(document: Document, settings: Sequence[str], prefix: str = "") -> list[Problem]:
    problems: list[Problem] = []
    for setting in settings:
        try:
            yamlfile.override(document, setting, prefix)
        except SpecError as error:
            problems.extend(error.problems)
    return problems


def _validate(document: Document, model: type[Model], problems: list[Problem]) -> Model | None:
    """The model, or None with what is wrong added to `problems`."""
    _restore_text(document)
    found = list(_name_problems(document, model))
    made = None
    try:
        made = model.model_validate(document.data)
    except ValidationError as error:
        found += [_problem(e, document, model) for e in error.errors(include_url=False)]
    problems += found
    return None if found else made


def _restore_text(document: Document) -> None:
    """Numbers in `env` become the text that was written: `1.50` must not reach a program as `1.5`."""
    for name, value in (document.data.get("env") or {}).items() if _is_map(document.data.get("env")) else ():
        if _is_map(value):
            written = document.numbers.get(("env", name, "value"))
            if written is not None:
                value["value"] = written
        elif ("env", name) in document.numbers:
            document.data["env"][name] = document.numbers["env", name]


def _is_map(value: object) -> bool:
    return isinstance(value, dict)


def _name_problems(document: Document, model: type[Model]) -> Iterator[Problem]:
    """Names that must exist: workload, preset, fabric, GPU, and the workload's own options."""
    data = document.data
    tables: dict[Keys, Callable[[], Sequence[str]]] = {
        ("fabric",): lambda: sorted(nccl.FABRICS),
        ("gpu",): lambda: sorted(gpus.GPUS),
    }
    if model is spec.Job:
        tables = {
            ("workload",): workloads.names,
            ("deepspeed",): lambda: ("auto", *deepspeed.presets()),
            ("deepspeed", "preset"): lambda: ("auto", *deepspeed.presets()),
        }
    for keys, known in tables.items():
        value: Any = data
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, str) or (keys == ("workload",) and workloads.is_script(value)):
            continue
        if value not in known():
            what = keys[-1] if keys != ("deepspeed",) else "preset"
            yield Problem(f"unknown {what} {value!r}", did_you_mean(value, known()), document.place(keys))
    if model is spec.Job:
        yield from _args_problems(document)


def _args_problems(document: Document) -> Iterator[Problem]:
    args, workload = document.data.get("args"), document.data.get("workload", "pretrain")
    if not isinstance(args, dict):
        return
    for key, value in args.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(v, (dict, list)) or (isinstance(v, str) and "\0" in v) for v in values):
            yield Problem(
                f"args.{key} must be a value or a list of values", "", document.place(("args", key))
            )
            return
    if workload in workloads.names():
        for key, problem in workloads.problems(workload, args):
            yield Problem(problem.message, problem.hint, document.place(("args", key)))


def _problem(error: Any, document: Document, model: type[BaseModel]) -> Problem:
    keys: Keys = tuple(k for k in error["loc"] if k != "[key]")
    name = ".".join(map(str, keys))
    given, context = error["input"], error.get("ctx", {})
    place = document.place(keys)
    match error["type"]:
        case "missing":
            return Problem(f"{name} is missing", _description(model, keys), place)
        case "extra_forbidden":
            known = _fields(model, keys[:-1])
            hint = did_you_mean(str(keys[-1]), known) or "known: " + ", ".join(sorted(known))
            return Problem(f"unknown key {name!r}", hint, place)
        case "value_error":
            return Problem(f"{name}: {context['error']}", "", place)
        case "literal_error":
            hint = did_you_mean(
                str(given), context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
            )
            return Problem(f"{name}: {given!r} is not one of {context['expected']}", hint, place)
        case "string_pattern_mismatch":
            return Problem(
                f"{name}: {given!r} is not a valid name", _pattern_hint(error["loc"], given), place
            )
        case "string_too_long":
            return Problem(f"{name}: {given!r} is longer than {context['max_length']} characters", "", place)
        case kind if kind in _EXPECTED:
            return Problem(f"{name}: {_EXPECTED[kind].format(**context)}, not {given!r}", "", place)
    return Problem(f"{name}: {error['msg']}", "", place)


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


def _pattern_hint(loc: tuple[Any, ...], given: object) -> str:
    if "env" in loc and "[key]" in loc:
        return "a variable's name has letters, digits and _ and does not start with a digit"
    if "secret" in loc:
        return "a secret is named by letters, digits, '-', '_' and '.'"
    return "use lower case letters, digits and '-', starting with a letter, ending with a letter or digit"


def _fields(model: Any, keys: Keys) -> set[str]:
    """The keys that the model at `keys` knows, as they are written in a file."""
    for key in keys:
        info = next((f for n, f in _by_name(model).items() if n == key), None)
        if info is None:  # the key of a mapping, such as a variable's name: same model below
            continue
        model = next((t for t in _types(info.annotation) if hasattr(t, "model_fields")), model)
    return set(_by_name(model))


def _by_name(model: Any) -> dict[str, Any]:
    return {f.alias or n: f for n, f in model.model_fields.items()}


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _types(inner)


def _description(model: type[BaseModel], keys: Keys) -> str:
    for depth in range(len(keys) - 1):
        inner = _by_name(model).get(str(keys[depth]))
        if inner is None:
            return ""
        model = next((t for t in _types(inner.annotation) if hasattr(t, "model_fields")), model)
    info = _by_name(model).get(str(keys[-1]))
    return (info.description or "").rstrip(".") if info else ""

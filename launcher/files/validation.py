"""A document as a Job, a Cluster or a pipeline's file, or everything that is wrong with it.

Owns the words for what pydantic finds; fields and ranges are in job.py, cluster.py and pipeline.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from launcher import workloads
from launcher.errors import Problem, did_you_mean, shown
from launcher.files import references
from launcher.files.cluster import Cluster
from launcher.files.fields import Model
from launcher.files.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.document import Document, Keys

Valid = TypeVar("Valid", bound=Model)


def validate(document: Document, model: type[Valid], problems: list[Problem]) -> Valid | None:
    """The model, or None with what is wrong added to `problems`."""
    wrong = [*document.problems, *references.problems(document, model)]
    valid = None
    try:
        valid = model.model_validate(document.data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        wrong += [_problem(e, document, model) for e in errors if not _is_unreadable(document, e["loc"])]
    problems += wrong
    return None if wrong else valid


def _is_unreadable(document: Document, path: Keys) -> bool:
    """Whether the value at `path` could not be read, which has been said."""
    return any(path[: len(keys)] == keys for keys in document.unreadable)


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
            return Problem(what, _value_hint(_info(model, keys), kind, given), place)
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
    "float_type": "a number is expected",
    "float_parsing": "a number is expected",
    "finite_number": "a finite number is expected",
    "string_unicode": "text in UTF-8 is expected",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def _value_hint(info: Any, kind: str, given: object) -> str:
    if given is None:
        return "" if info is None or info.is_required() else "remove the key to get its default"
    quoted = kind == "int_type" and isinstance(given, str) and given.isascii() and given.isdecimal()
    return "take the quotes away" if quoted else ""


def _pattern_hint(loc: tuple[Any, ...]) -> str:
    if "env" in loc and "[key]" in loc:
        return "a variable's name has letters, digits and _ and does not start with a digit"
    if loc[-1] in {"secret", "key"}:
        return "use letters, digits, '-', '_' and '.'"
    return "use lower case letters, digits and '-', starting with a letter, ending with a letter or digit"


def _key_hint(model: type[Model], keys: Keys) -> str:
    """Where an unknown key belongs, or which known one is meant."""
    key = str(keys[-1])
    others = {"job": Job, "cluster": Cluster}
    for name, other in others.items():
        if len(keys) == 1 and other is not model and key in _by_name(other):
            return f"it belongs in the {name} file"
    if keys == (key,) and model is Job and key.replace("_", "-") in workloads.known():
        return f"options of the workload go below `args:`: args: {{{key.replace('_', '-')}: …}}"
    return did_you_mean(key, _by_name(_below(model, keys[:-1])))


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


def _info(model: Any, keys: Keys) -> Any:
    """The field at `keys`; None where there is none, such as for the key of a mapping."""
    return _by_name(_below(model, keys[:-1])).get(str(keys[-1]))


def _description(model: type[Model], keys: Keys) -> str:
    info = _info(model, keys)
    text = (info.description or "") if info else ""
    return f"add `{keys[-1]}:`" + (f" ({text[:1].lower()}{text[1:].rstrip('.')})" if text else "")

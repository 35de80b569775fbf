"""A document as a Job, a Cluster or a pipeline's file, or everything that is wrong with it.

Owns the walk along the annotations of job.py, cluster.py and pipeline.py, and the words of each message.

Why not pydantic: its import and the building of its models took half of a command's time (`make bench`), and each of
its messages was worded anew here.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from launcher import workloads
from launcher.errors import Problem, SpecError, did_you_mean, shown
from launcher.files import references
from launcher.files.cluster import Cluster, Slurm
from launcher.files.fields import Longest, Misplaced, Pattern, Range, Read, Shorthand, Then
from launcher.files.job import Job
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.files.document import Document, Keys

Valid = TypeVar("Valid")
_INVALID: Any = object()
_EXPECTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


class Violation(NamedTuple):
    """What is wrong with the value at `keys`; `unknown` where it is the key itself that no field has."""

    keys: Keys
    message: str
    hint: str = ""
    unknown: bool = False


def validate(document: Document, model: type[Valid], problems: list[Problem]) -> Valid | None:
    """`document` as a `model`, or None with what is wrong added to `problems`."""
    wrong = [*document.problems, *references.problems(document, model)]
    value, violations = read(model, document.data)
    for keys, message, hint, unknown in violations:
        if not document.is_unread(keys):
            hint = (_elsewhere(model, keys) if unknown else "") or hint
            wrong.append(Problem(message, hint, document.place(keys)))
    problems += wrong
    return None if wrong else value


def build(model: type[Valid], data: object) -> Valid:
    """Plain data as a `model`. Raises SpecError with all that is wrong with it, without places."""
    value, violations = read(model, data)
    if value is None:
        raise SpecError(*(Problem(message, hint) for _, message, hint, _ in violations))
    return value


def read(model: type[Valid], data: object, recorded: bool = False) -> tuple[Valid | None, list[Violation]]:
    """Plain data as a `model`, or None and all that is wrong with it.

    `recorded`: the data is what `written` returned, in which durations are seconds and sizes bytes.
    """
    reader = _Reader([], recorded)
    value = reader.value(model, data, ())
    return (None if reader.violations else value), reader.violations


def written(value: Any) -> Any:
    """A model as the plain data of a file; what has its default is left out."""
    if dataclasses.is_dataclass(value):
        more = getattr(value, "MORE", "")
        parts = {
            key: written(entry)
            for key, field in fields(type(value)).items()
            if (entry := getattr(value, field.name)) != _default(field)
        }
        short = getattr(value, "SHORT", None)  # the field that may stand for the whole
        if short and parts.keys() == {short}:
            return parts[short]
        return parts | (getattr(value, more) if more else {})
    if isinstance(value, dict):
        return {key: written(entry) for key, entry in value.items()}
    return [written(entry) for entry in value] if isinstance(value, list) else value


def fields(model: Any, keys: Keys = ()) -> dict[str, dataclasses.Field[Any]]:
    """The fields of the dataclass at `keys` below `model`, by their names in a file."""
    for key in keys:
        field = fields(model).get(str(key))
        if field is not None:  # else the key of a mapping, such as a variable's name: same dataclass below
            model = next(filter(dataclasses.is_dataclass, _inside(hint_of(model, field.name))), model)
    more = getattr(model, "MORE", None)
    return {f.metadata.get("key", f.name): f for f in dataclasses.fields(model) if f.name != more}


@functools.cache
def hint_of(model: type, name: str) -> Any:
    """The annotation of a dataclass's field. Few are evaluated for a file, which has few of all fields."""
    (text,) = (field.type for field in dataclasses.fields(model) if field.name == name)
    alone = type(model.__name__, (), {"__module__": model.__module__, "__annotations__": {name: text}})
    return get_type_hints(alone, include_extras=True)[name]


def is_optional(hint: Any) -> bool:
    """Whether `hint` is `X | None`."""
    return get_origin(hint) in (Union, types.UnionType)


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _inside(hint: Any) -> list[Any]:
    return [hint, *(deeper for inner in get_args(hint) for deeper in _inside(inner))]


def _elsewhere(model: Any, keys: Keys) -> str:
    """Where an unknown key belongs, if it is one of another file or of a workload; else ''."""
    key = str(keys[-1])
    for name, other in (("job", Job), ("cluster", Cluster)):
        if len(keys) == 1 and other is not model and key in fields(other):
            return f"it belongs in the {name} file"
    if (
        model is Cluster
        and keys == ("slurm", key)
        and not difflib.get_close_matches(key, fields(Slurm), cutoff=0.8)
    ):
        return f"options of sbatch go below `sbatch:`: sbatch: {{{key}: …}}"
    option = key.replace("_", "-")
    if keys == (key,) and model is Job and option in workloads.known():
        return f"options of the workload go below `args:`: args: {{{option}: …}}"
    for name, other in (("job", Job), ("cluster", Cluster)) if keys == (key,) else ():
        if sections := _sections(other, key):
            file = "" if other is model else f" of the {name} file"
            return f"it goes below {' or '.join(f'`{section}:`' for section in sections)}{file}"
    return ""


def _sections(model: Any, key: str) -> list[str]:
    """The fields of a file whose own fields have one of this name."""
    above = fields(model)
    return [
        name for name in above if key in (below := fields(model, (name,))) and below.keys() != above.keys()
    ]


def _dotted(keys: Keys) -> str:
    return ".".join(map(str, keys))


class _Reader(NamedTuple):
    violations: list[Violation]
    recorded: bool

    def value(self, hint: Any, value: Any, keys: Keys) -> Any:
        """`value` as `hint`, or _INVALID with a violation added."""
        origin, inner = get_origin(hint), get_args(hint)
        if origin is Annotated:
            return self._annotated(inner[0], inner[1:], value, keys)
        if is_optional(hint):
            return None if value is None else self.value(inner[0], value, keys)
        if origin is Literal:
            return self._choice(inner, value, keys)
        if origin is dict:
            return self._mapping(inner, value, keys)
        if origin is list:
            return self._list(inner[0], value, keys)
        if dataclasses.is_dataclass(hint):
            return self._model(hint, value, keys)
        expected = "" if hint is Any else _mismatch(hint, value)
        if expected:
            return self._wrong(keys, f"{expected} is expected", value)
        return float(value) if hint is float else value

    def _annotated(self, base: Any, rules: tuple[Any, ...], value: Any, keys: Keys) -> Any:
        for rule in rules:
            if isinstance(rule, Read) and not (self.recorded and isinstance(value, (int, float))):
                value = self._called(rule.function, value, keys)
            if isinstance(rule, Shorthand) and not isinstance(value, (dict, base)):
                part = self.value(hint_of(base, rule.field), value, keys)
                build = functools.partial(_build, base, rule.field)
                return part if part is _INVALID else self._called(build, part, keys)
        value = value if value is _INVALID else self.value(base, value, keys)
        for rule in rules if value is not _INVALID else ():
            message, hint = _broken(rule, value)
            if message:
                self.violations.append(Violation(keys, f"{_dotted(keys)}: {message}", hint))
                return _INVALID
            if isinstance(rule, Then):
                value = self._called(rule.function, value, keys)
        return value

    def _called(self, function: Callable[[Any], Any], value: Any, keys: Keys) -> Any:
        try:
            return function(value)
        except ValueError as error:
            path = (*keys, error.at) if isinstance(error, Misplaced) else keys
            self.violations.append(Violation(path, f"{_dotted(path)}: {error}"))
            return _INVALID

    def _wrong(self, keys: Keys, message: str, value: object) -> Any:
        hint = ""
        if message.startswith("a whole") and isinstance(value, str) and value.isascii() and value.isdecimal():
            hint = "take the quotes away"
        self.violations.append(Violation(keys, f"{_dotted(keys)}: {message}, not {shown(value)}", hint))
        return _INVALID

    def _choice(self, choices: tuple[Any, ...], value: Any, keys: Keys) -> Any:
        if isinstance(value, str) and value in choices:
            return value
        hint = did_you_mean(str(value), choices)
        self.violations.append(Violation(keys, f"{_dotted(keys)}: {shown(value)} is not known", hint))
        return _INVALID

    def _mapping(self, inner: tuple[Any, ...], value: Any, keys: Keys) -> Any:
        if not isinstance(value, dict):
            return self._wrong(keys, "`key: value` lines are expected", value)
        before, mapping = len(self.violations), {}
        for key, entry in value.items():
            start = len(self.violations)
            name = self.value(inner[0], key, keys)
            # what is wrong with a key stands at the key, in the words of the mapping
            self.violations[start:] = [v._replace(keys=(*keys, key)) for v in self.violations[start:]]
            mapping[name] = self.value(inner[1], entry, (*keys, key))
        return mapping if len(self.violations) == before else _INVALID

    def _list(self, inner: Any, value: Any, keys: Keys) -> Any:
        if not isinstance(value, list):
            return self._wrong(keys, "a list is expected", value)
        entries = [self.value(inner, entry, (*keys, index)) for index, entry in enumerate(value)]
        return _INVALID if any(entry is _INVALID for entry in entries) else entries

    def _model(self, model: Any, value: Any, keys: Keys) -> Any:
        if isinstance(value, model):
            return value
        if not isinstance(value, dict):
            return self._wrong(keys, "`key: value` lines are expected", value)
        known, before, parts = fields(model), len(self.violations), dict[str, Any]()
        more = getattr(model, "MORE", None)  # the field for keys that no other field has
        unknown = [key for key in value if key not in known]
        for key in unknown if more is None else ():
            hint, path = did_you_mean(str(key), known), (*keys, key)
            self.violations.append(Violation(path, f"unknown key {_dotted(path)!r}", hint, unknown=True))
        for key, field in known.items():
            required = _default(field) is dataclasses.MISSING
            if key in value:
                start = len(self.violations)
                parts[field.name] = self.value(hint_of(model, field.name), value[key], (*keys, key))
                if value[key] is None and not required and not field.metadata.get("needed"):
                    self._hint(start, "remove the key to get its default")
            elif required:
                self.violations.append(_missing(field, (*keys, key)))
        if more:
            parts[more] = {key: value[key] for key in unknown}
        if len(self.violations) > before:
            return _INVALID
        return self._called(lambda parts: model(**parts), parts, keys)

    def _hint(self, start: int, hint: str) -> None:
        self.violations[start:] = [v._replace(hint=hint) for v in self.violations[start:]]


def _build(model: Any, field: str, value: Any) -> Any:
    return model(**{field: value})


def _mismatch(kind: type, value: object) -> str:
    """What is expected in place of `value`, or '' where it is of `kind`."""
    numbers = (int, float) if kind is float else kind
    if not isinstance(value, numbers) or (kind is not bool and isinstance(value, bool)):
        return _EXPECTED[kind]
    if isinstance(value, float) and not math.isfinite(value):
        return "a finite number"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "text in UTF-8"
    return ""


def _broken(rule: object, value: Any) -> tuple[str, str]:
    """(what is wrong, hint) with a value that does not keep to `rule`, else two empty texts."""
    match rule:
        case Range(least=least) if value < least:
            return f"must be at least {least}, not {shown(value)}", ""
        case Range(most=most) if most is not None and value > most:
            return f"must be at most {most}, not {shown(value)}", ""
        case Pattern(longest=longest) if longest and len(value) > longest:
            return f"{shown(value)} is longer than {longest} characters", "shorten it"
        case Pattern(expression=expression, hint=hint) if not re.fullmatch(expression, value):
            return f"{shown(value)} is not a valid name", hint
        case Longest(entries=entries) if len(value) > entries:
            return f"has {len(value)} entries, more than {entries}", "shorten it"
    return "", ""


def _missing(field: dataclasses.Field[Any], keys: Keys) -> Violation:
    text = field.metadata["description"]
    about = f" ({text[:1].lower()}{text[1:].rstrip('.')})" if text else ""
    return Violation(keys, f"{_dotted(keys)} is missing", f"add `{keys[-1]}:`{about}")

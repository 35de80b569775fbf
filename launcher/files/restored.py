"""The plain data that `validation.written` makes of a job or a cluster, as a model again.

Owns the way back: values were read and checked once, so a duration is a number of seconds here, and nothing is checked
anew. What YAML wrote otherwise than JSON does (`007`, `1.50`) is kept beside the data, by its path.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin

from launcher.files import validation
from launcher.files.document import Float, Int

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Model = TypeVar("Model")
Spelling = tuple[tuple[str | int, ...], str]  # where a number stands, and its text


def restore(model: type[Model], data: Any, spellings: Sequence[Spelling] = ()) -> Model:
    """`data` as a `model`. Raises ValueError or TypeError for what is none."""
    restored: Model = _value(model, _spelled(data, {tuple(path): text for path, text in spellings}, ()))
    return restored


def spellings(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[Spelling]:
    """The numbers below `data` whose text is another than JSON's."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from spellings(value, (*path, str(key)))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from spellings(value, (*path, index))
    elif isinstance(data, (Int, Float)) and str(data) != json.dumps(data):
        yield path, str(data)


def _spelled(data: Any, texts: dict[tuple[str | int, ...], str], path: tuple[str | int, ...]) -> Any:
    if isinstance(data, dict):
        return {key: _spelled(value, texts, (*path, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [_spelled(value, texts, (*path, index)) for index, value in enumerate(data)]
    if path not in texts or not isinstance(data, (int, float)):
        return data
    number: Int | Float = Int(data) if isinstance(data, int) else Float(data)
    number.written = texts[path]
    return number


def _value(hint: Any, data: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _value(inner[0], data)
    if validation.is_optional(hint):
        return None if data is None else _value(inner[0], data)
    if origin is dict:
        return {key: _value(inner[1], value) for key, value in dict(data).items()}
    if origin is list:
        return [_value(inner[0], value) for value in list(data)]
    if not dataclasses.is_dataclass(hint):
        return data
    short = getattr(hint, "SHORT", None)
    return _model(hint, dict(data) if isinstance(data, dict) or short is None else {short: data})


def _model(model: Any, data: dict[str, Any]) -> Any:
    known, more = validation.fields(model), getattr(model, "MORE", None)
    rest = {key: value for key, value in data.items() if key not in known}
    if rest and more is None:
        raise ValueError(f"this launcher has no field {sorted(rest)[0]!r}")
    parts = {
        field.name: _value(validation.hint_of(model, field.name), data[key])
        for key, field in known.items()
        if key in data
    }
    return model(**parts, **({more: rest} if more else {}))

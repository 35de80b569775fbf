"""The plain data that `validation.written` makes of a job or a cluster, as a model again.

Owns the way back. A run folder is its user's, so all is checked anew. What YAML wrote otherwise than JSON does (`007`,
`1.50`) is kept beside the data, by its path.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from launcher.files import validation
from launcher.files.document import Float, Int

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Model = TypeVar("Model")
Path = tuple[str | int, ...]  # where a number stands
Spelling = tuple[Path, str]  # and its text


def restore(model: type[Model], data: Any, spellings: Mapping[Path, str]) -> Model:
    """`data` as a `model`. Raises ValueError for what is none."""
    value, violations = validation.read(model, _spelled(data, spellings, ()), recorded=True)
    if value is None:
        # a field that this launcher has not says more than what is missing: another version wrote it
        raise ValueError("; ".join(v.message for v in sorted(violations, key=lambda v: not v.unknown)[:3]))
    return value


def spellings(data: Any, path: Path = ()) -> Iterator[Spelling]:
    """The numbers below `data` whose text is another than JSON's."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from spellings(value, (*path, str(key)))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from spellings(value, (*path, index))
    elif isinstance(data, (Int, Float)) and str(data) != json.dumps(data):
        yield path, str(data)


def _spelled(data: Any, texts: Mapping[Path, str], path: Path) -> Any:
    if isinstance(data, dict):
        return {key: _spelled(value, texts, (*path, key)) for key, value in data.items()}
    if isinstance(data, list):
        return [_spelled(value, texts, (*path, index)) for index, value in enumerate(data)]
    if path not in texts or not isinstance(data, (int, float)):
        return data
    number: Int | Float = Int(data) if isinstance(data, int) else Float(data)
    number.written = texts[path]
    return number

"""The kinds of values in DeepSpeed's configuration, as keys.json writes them: `bool`, `int >0`, `number >=0 <=1`.

Owns what a kind takes, and what editors show of it; which key has which kind is keys.json's.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COMPARISONS: dict[str, tuple[Callable[[Any, Any], bool], str, str]] = {
    ">=": (operator.ge, "of at least", "minimum"),
    "<=": (operator.le, "up to", "maximum"),
    ">": (operator.gt, "above", "exclusiveMinimum"),
    "<": (operator.lt, "below", "exclusiveMaximum"),
}
_TYPES = {
    "bool": "boolean",
    "int": "integer",
    "number": "number",
    "numbers": "number",
    "pair": "number",
    "text": "string",
}
_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "number": "a number",
    "numbers": "a number or a list of numbers",
    "pair": "a list of two numbers",
    "text": "text",
    "texts": "a list of text",
}
# What DeepSpeed's C++ holds a size in; a larger one would not even be a size in memory.
_LARGEST = 2**63 - 1


class _Bound(NamedTuple):
    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        return _COMPARISONS[self.sign][0](value, self.limit)

    def __str__(self) -> str:
        return f"{_COMPARISONS[self.sign][1]} {self.limit:g}"


def mismatch(kind: str, value: Any, rounded: bool = False) -> str:
    """What is expected instead of `value`; empty when it is of the kind. With `rounded`, 5e8 is a whole number."""
    name, bounds = _parsed(kind)
    if name not in _WORDS:
        return "" if _is_json(value) else "a finite number"
    expected = " ".join([_WORDS[name], *(" and ".join(map(str, bounds)).split())])
    if name == "numbers" and isinstance(value, list):
        return next((wrong for item in value if (wrong := mismatch("number", item))), "") and expected
    if name == "texts":
        return "" if isinstance(value, list) and all(isinstance(item, str) for item in value) else expected
    if name == "pair":
        inner = " ".join(["number", *kind.split()[1:]])
        both = isinstance(value, list) and len(value) == 2
        return "" if both and not any(mismatch(inner, item) for item in value) else expected
    if _fits(name, value, rounded) and all(bound.holds(value) for bound in bounds):
        return ""
    is_large = isinstance(value, (int, float)) and _LARGEST < abs(value) < math.inf
    return f"{expected}, of 64 bits," if is_large else expected


def _fits(name: str, value: Any, rounded: bool) -> bool:
    if name in ("bool", "text"):
        return isinstance(value, bool if name == "bool" else str)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if not -_LARGEST <= value <= _LARGEST:  # nor NaN
        return False
    return name != "int" or isinstance(value, int) or (rounded and value == int(value))


def _is_json(value: Any) -> bool:
    """Whether a value of any kind is free of numbers that JSON does not have."""
    if isinstance(value, (list, dict)):
        return all(map(_is_json, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a kind."""
    name, bounds = _parsed(kind)
    if name not in _TYPES:
        return {}
    one = {"type": _TYPES[name]} | {_COMPARISONS[bound.sign][2]: bound.limit for bound in bounds}
    if name == "texts":
        return {"type": "array", "items": one}
    if name == "pair":
        return {"type": "array", "items": one, "minItems": 2, "maxItems": 2}
    return {"anyOf": [one, {"type": "array", "items": one}]} if name == "numbers" else one


def _parsed(kind: str) -> tuple[str, list[_Bound]]:
    name, *bounds = kind.split()
    return name, list(_bounds(bounds))


def _bounds(words: list[str]) -> Iterator[_Bound]:
    for word in words:
        sign = next(sign for sign in _COMPARISONS if word.startswith(sign))
        limit = float(word.removeprefix(sign))
        yield _Bound(sign, int(limit) if limit == int(limit) else limit)

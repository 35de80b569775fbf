"""What a kind of value takes, what it asks for instead, and that editors are told the same."""

from __future__ import annotations

import math
from typing import Any

import jsonschema
import pytest

from launcher.deepspeed import kinds


@pytest.mark.parametrize(
    ("kind", "fine", "wrong"),
    [
        ("bool", [True, False], [0, 1, "true", None]),
        ("text", ["", "a"], [1, None, True]),
        (
            "int",
            [0, -1, 2**63 - 1],
            [True, 0.5, 1.0, "1", None, math.inf, math.nan, 2**63, -(2**64), 10**400],
        ),
        ("int >0", [1, 8], [0, -1]),
        ("int >=0", [0, 8], [-1]),
        ("number", [0, 0.5, -1e300 / 1e290], [True, "1", math.inf, -math.inf, math.nan, 1e300]),
        ("number >0 <1", [0.5], [0, 1, -0.5, 2]),
        ("number >=0 <=1", [0, 0.5, 1, 1.0], [-0.5, 1.5]),
        ("numbers", [1, 0.5, [0.9, 0.95]], ["1", [1, "2"], [math.nan], {}, True]),
        ("any", [None, "x", 1, {"a": [1.5]}], [math.inf, [math.nan], {"a": {"b": [-math.inf]}}]),
    ],
)
def test_values(kind: str, fine: list[Any], wrong: list[Any]) -> None:
    assert [value for value in fine if kinds.mismatch(kind, value)] == []
    assert [value for value in wrong if not kinds.mismatch(kind, value)] == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("int >0", "a whole number above 0"),
        ("number >=0 <=1", "a number of at least 0 and up to 1"),
        ("number >0 <1", "a number above 0 and below 1"),
        ("numbers", "a number or a list of numbers"),
        ("bool", "true or false"),
    ],
)
def test_what_is_expected_instead(kind: str, expected: str) -> None:
    assert kinds.mismatch(kind, None) == expected


def test_sizes_may_be_rounded_where_deepspeed_rounds() -> None:
    assert kinds.mismatch("int >0", 5e8, rounded=True) == ""
    assert kinds.mismatch("int >0", 5e8)
    assert kinds.mismatch("int >0", 0.5, rounded=True)
    assert kinds.mismatch("int >0", math.inf, rounded=True)


@pytest.mark.parametrize(
    "kind", ["bool", "text", "int", "int >0", "number >0 <1", "number >=0 <=1", "numbers"]
)
def test_editors_are_told_the_same(kind: str) -> None:
    validator = jsonschema.Draft202012Validator(kinds.schema(kind))
    values: tuple[Any, ...] = (True, "a", 0, 1, -1, 2, 0.5, -0.5, [0.5, 1], ["a"], {}, None)
    for value in values:
        assert validator.is_valid(value) == (not kinds.mismatch(kind, value)), value

"""The kinds of values that job and cluster files hold: durations, sizes, names, paths, text.

Owns how each is checked and what editors show of it; which field has which kind is said in job.py and cluster.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from launcher import units
from launcher.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"


def _measure(convert: Callable[[str], int], examples: str) -> BeforeValidator:
    def validate(value: object) -> int:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} has no unit; write it as {examples}")
        number = convert(value)
        if number < 1:
            raise ValueError(f"{value!r} is not above zero; write it as {examples}")
        return number

    return BeforeValidator(validate)


def as_text(value: object) -> object:
    """A value as the text that was written; raises ValueError for a boolean and for a NUL."""
    if isinstance(value, bool):
        raise ValueError(f"{'true' if value else 'false'} is not text; quote it")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("a value cannot hold a NUL character")
    # a number is the text that was written: `007` must not reach a program as `7`
    return str(value) if isinstance(value, (int, float)) else value


def _bindable(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path")
    if set(value) & set(":,\n\0\"'\\"):
        raise ValueError(f"{value!r} holds a character that container runtimes split on (: , quote, newline)")
    return value


Seconds = Annotated[
    int,
    _measure(units.seconds, "48h, 90m or 48:00:00"),
    WithJsonSchema(
        {"type": "string", "pattern": f"^(?:{units.DURATION}|{units.CLOCK})$", "examples": ["48h", "90m"]}
    ),
]
Bytes = Annotated[
    int,
    _measure(units.size, "80GB or 512GiB"),
    WithJsonSchema({"type": "string", "pattern": f"^{units.SIZE}$", "examples": ["80GB", "512GiB"]}),
]
Text = Annotated[str, BeforeValidator(as_text), WithJsonSchema({"type": ["string", "number"]})]
AbsolutePath = Annotated[
    str,
    BeforeValidator(_bindable),
    WithJsonSchema({"type": "string", "pattern": r"""^/[^:,\n"'\\]*$"""}),
]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$", max_length=40)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class OrText:
    """Lets a mapping be written as one value: `deepspeed: zero3` for `deepspeed: {preset: zero3}`."""

    def __init__(self, field: str, *kinds: str) -> None:
        self.field, self.kinds = field, list(kinds) or ["string"]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda v: v if isinstance(v, (dict, BaseModel)) else {self.field: v}, handler(source)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": self.kinds}, handler(core)]}


def is_name(text: str) -> bool:
    """Whether `text` may be a job's name or a run's suffix."""
    return re.fullmatch(NAME, text) is not None

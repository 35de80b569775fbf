"""The kinds of values that job and cluster files hold: durations, sizes, names, paths, text.

Owns how each is checked and what editors show of it; which field has which kind is said in job.py and cluster.py, as
annotations of frozen dataclasses that validation.py reads.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from launcher import entry, units
from launcher.errors import shown
from launcher.frozen import dataclass

NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"

# What stands in annotations must be hashable, as typing looks for duplicates in unions: by identity.
_rule = dataclass(frozen=True, eq=False)


@_rule
class Range:
    """The numbers that a field takes."""

    least: int
    most: int | None = None


@_rule
class Pattern:
    """The text that a field takes: all of it matches `expression`; `hint` says how to write it."""

    expression: str
    hint: str
    longest: int | None = None


@_rule
class Read:
    """How a value is read: `function` returns it or raises ValueError; `schema` is what editors know of it."""

    function: Callable[[Any], Any]
    schema: Mapping[str, Any] | None = None


@_rule
class Then:
    """What is done with a value that has the right type; raises ValueError."""

    function: Callable[[Any], Any]


@_rule
class Longest:
    """How many entries a list takes."""

    entries: int


@_rule
class Shorthand:
    """Lets a mapping be written as one value: `deepspeed: zero3` for `deepspeed: {preset: zero3}`."""

    field: str
    types: tuple[str, ...] = ("string",)


def field(
    default: Any = dataclasses.MISSING, description: str = "", *, key: str = "", needed: bool = False
) -> Any:
    """A field of a file. `default`: a value, or a function that makes it; `key`: its name there, if not Python's.

    `needed`: most jobs have to write it, so that its default is no advice.
    """
    metadata = {"description": description, "needed": needed, **({"key": key} if key else {})}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def as_text(value: object) -> object:
    """A value as the text that was written; raises ValueError for a boolean and for a NUL."""
    if isinstance(value, bool):
        raise ValueError(f"{'true' if value else 'false'} is not text; quote it")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("a value cannot hold a NUL character")
    # a number is the text that was written: `007` must not reach a program as `7`
    return str(value) if isinstance(value, (int, float)) else value


def follows(rule: Callable[[str], str]) -> Callable[[object], object]:
    """Text that `rule` returns or refuses; what is no text passes, to be refused as such."""

    def read(value: object) -> object:
        text = as_text(value)
        return rule(text) if isinstance(text, str) else text

    return read


class Misplaced(ValueError):
    """What is wrong with one entry of a mapping, which has the key `at`."""

    def __init__(self, message: str, at: str) -> None:
        super().__init__(message)
        self.at = at


def home_path(value: object) -> object:
    """An absolute path, or one below `~`, which alone a script knows; raises ValueError for others."""
    if isinstance(value, str) and not re.match(r"/|~/|~$", value):
        raise ValueError(f"{shown(value)} is no folder that every host knows; write /path or ~/path")
    return value


def exported(value: object) -> object:
    """`none`, `all`, or a list of variables' names; raises ValueError for others."""
    if value in ("none", "all"):
        return value
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not known; write none, all, or a list of variables' names")
    for name in value:
        if not isinstance(name, str) or not re.fullmatch(VARIABLE, name):
            raise ValueError(f"{shown(name)} is no variable's name; values do not belong here")
    return value


def mirror(value: object) -> object:
    """The address of a mirror; raises ValueError for others, without the address, which may hold a password."""
    if isinstance(value, str) and (wrong := entry.module("workloads.keeping").problem(value)):
        raise ValueError(f"the address {wrong}")
    return value


def is_name(text: str) -> bool:
    """Whether `text` may be a job's name or a run's suffix."""
    return re.fullmatch(NAME, text) is not None


def _measure(convert: Callable[[str], int], examples: str) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} has no unit; write it as {examples}")
        size = convert(value)
        if size < 1:
            raise ValueError(f"{shown(value)} is not above zero; write it as {examples}")
        return size

    return read


def _duration_or(*words: str) -> Callable[[object], object]:
    measured = _measure(units.seconds, f"10m, or {' or '.join(words)}")

    def read(value: object) -> object:
        if value in words:
            return value
        if not isinstance(value, str) or not re.fullmatch(r"\s*[0-9].*", value):
            known = ", ".join(words)
            raise ValueError(f"{shown(value)} is neither a duration such as 10m nor one of {known}")
        measured(value)
        return value

    return read


def _bindable(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("/"):
        raise ValueError(f"{shown(value)} is not an absolute path")
    if set(value) & set(":,\n\0\"'\\"):
        raise ValueError(
            f"{shown(value)} holds a character that container runtimes split on (: , quote, newline)"
        )
    return value


VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
EXPORTED_SCHEMA = {
    "anyOf": [
        {"enum": ["none", "all"]},
        {"type": "array", "items": {"type": "string", "pattern": f"^{VARIABLE}$"}},
    ]
}
TEXT_SCHEMA = {"type": ["string", "number"]}
Seconds = Annotated[
    int,
    Read(
        _measure(units.seconds, "48h, 90m or 48:00:00"),
        {"type": "string", "pattern": f"^(?:{units.DURATION}|{units.CLOCK})$", "examples": ["48h", "90m"]},
    ),
]
Patience = Annotated[
    str,
    Read(
        _duration_or("auto", "off"),
        {
            "type": "string",
            "pattern": f"^(?:auto|off|{units.DURATION}|{units.CLOCK})$",
            "examples": ["auto", "10m", "off"],
        },
    ),
]
Bytes = Annotated[
    int,
    Read(
        _measure(units.size, "80GB or 512GiB"),
        {"type": "string", "pattern": f"^{units.SIZE}$", "examples": ["80GB", "512GiB"]},
    ),
]
Home = Annotated[str, Read(home_path, {"type": "string", "pattern": "^(/|~/|~$)"})]
Text = Annotated[str, Read(as_text, TEXT_SCHEMA)]
Mirror = Annotated[
    str,
    Read(
        mirror,
        {
            "type": "string",
            "pattern": r"^(?:(?:s3|gs)://[^/@ ?#%*]|file:///[^/ ?#%*])[^ ?#%*]*$",
            "examples": ["s3://bucket/checkpoints", "gs://bucket/checkpoints", "file:///archive/checkpoints"],
        },
    ),
]
AbsolutePath = Annotated[str, Read(_bindable, {"type": "string", "pattern": r"""^/[^:,\n"'\\]*$"""})]
Count = Annotated[int, Range(1, 2**31 - 1)]
Name = Annotated[
    str,
    Pattern(
        NAME,
        "use lower case letters, digits and '-', starting with a letter, ending with a letter or digit",
        longest=40,
    ),
]
VariableName = Annotated[
    str,
    Pattern(
        VARIABLE,
        "a variable's name has letters, digits and _ and does not start with a digit",
    ),
]

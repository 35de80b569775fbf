"""Template and values to text, with every value escaped for the language it lands in.

Owns Jinja's settings and escaping; it knows no field's name. A template's suffix decides: in `*.sh.j2` each `{{ }}`
is one shell word, in `*.yaml.j2` each is JSON, which is valid YAML.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from launcher import ROOT, exit_codes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jinja2.bccache import Bucket


# In a comment at the top of every script and manifest: `-o` overwrites such files alone.
MARK = "Written by `python -m launcher`, which overwrites it."


class Code(str):
    """Text that is already in the template's language, such as a comment."""

    __slots__ = ()


def text(template: str, **values: Any) -> str:
    """The template (a path below templates/) filled with `values`.

    Raises jinja2.UndefinedError for a name it does not get and TypeError for None: a bug, never a user's mistake.
    """
    return _environment(template.split(".")[-2]).get_template(template).render(**values)


@functools.cache
def _environment(language: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "templates"),
        undefined=jinja2.StrictUndefined,
        finalize=_ESCAPES[language],
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        bytecode_cache=None if sys.dont_write_bytecode else _Cache(str(ROOT / "templates" / "__pycache__")),
    )
    environment.globals.update(mark=MARK, codes=exit_codes.numbers())
    environment.filters.update(comment=comment, code=Code, sbatch=sbatch, words=words)
    return environment


class _Cache(jinja2.FileSystemBytecodeCache):
    """Compiled templates, kept where Python keeps compiled modules; where that cannot be written, none are."""

    def dump_bytecode(self, bucket: Bucket) -> None:
        with contextlib.suppress(OSError):
            Path(self.directory).mkdir(exist_ok=True)
            super().dump_bytecode(bucket)


def shell(value: Any) -> str:
    """`value` as one shell word, or the text itself when it is Code. Raises TypeError for None and booleans."""
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool):
        raise TypeError(f"{value!r} has no meaning in a shell script")
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """One word of bash. sbatch takes no script in which a carriage return stands before a line break."""
    return shlex.quote(text).replace("\r", "'$'\\r''")


def words(values: Iterable[str], indent: int = 2) -> Code:
    """`values` as shell words on as many lines as they have options, each line after the first indented."""
    quoted = ""
    for value in map(str, values):
        gap = f" \\\n{' ' * indent}" if value.startswith("-") else " "
        quoted += (gap if quoted else "") + _quoted(value)
    return Code(quoted)


def yaml(value: Any) -> str:
    """`value` as JSON on one line, or the text itself when it is Code. Raises TypeError for None."""
    if isinstance(value, Code):
        return value
    if value is None:
        raise TypeError("None has no meaning in a manifest")
    # YAML readers refuse or fold these as they are, and take them escaped: https://yaml.org/spec/1.2.2/#51-character-set
    return re.sub(
        "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", _escaped, json.dumps(value, ensure_ascii=False)
    )


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def block(text: str) -> Code:
    """A value two levels deep in YAML: a literal block scalar where that says the same, else JSON."""
    lines = text.removesuffix("\n").split("\n")
    if not lines[-1] or not all(line.isprintable() for line in lines):
        return Code(yaml(text))
    head = "|2" if text.endswith("\n") else "|2-"
    return Code("\n".join([head, *(f"    {line}" if line else "" for line in lines)]))


def comment(value: Any) -> Code:
    """`value` as the text of a `#` comment: on one line."""
    return Code(re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in str(value))).strip())


def sbatch(value: Any) -> Code:
    """`value` as an option's value in an `#SBATCH` line.

    sbatch reads these lines itself: `#` starts a comment, blanks end a value, quotes and backslashes are taken. Inside
    double quotes only `"` and `\\` need a backslash (Slurm 24.11, tests/real/slurm/test_launcher.py). A newline cannot
    be written there.
    """
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", text):
        return Code(text)
    return Code('"' + re.sub(r'(["\\])', r"\\\1", text) + '"')


_ESCAPES: dict[str, Callable[[Any], str]] = {"sh": shell, "yaml": yaml}


def home(path: str) -> Code:
    """A folder as shell text in which a leading `~` is the home of whoever runs the job."""
    return Code('"$HOME"' + _quoted(path[1:])) if path.startswith("~/") else Code(_quoted(path))

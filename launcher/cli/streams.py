"""stdin, stdout and stderr of a command: their encoding, and what happens to output that nobody reads.

Owns the three streams; what is written to them is the verbs'.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.errors import LauncherError


_LONGEST = 2000  # characters of a line


class _Heedless(io.RawIOBase):
    """stderr to somewhere that may be full or closed: what cannot be said there is lost, and changes no exit code."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return self._raw.write(data) or len(data)
        return len(data)


def protect_stderr() -> None:
    """Let a stderr that cannot be written, or is closed, stop nothing."""
    if sys.stderr is None:  # `2>&-`: print() would take stdout instead
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    buffer = getattr(sys.stderr, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # the buffer itself is raw where PYTHONUNBUFFERED is set
    if sys.stderr is sys.__stderr__ and isinstance(raw, io.FileIO):
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(_Heedless(raw)), line_buffering=True)


def use_utf8() -> None:
    """UTF-8 for all three."""
    # rendered files are UTF-8 whatever the locale; a path that is not passes through as its bytes
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "surrogateescape"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def drop_output() -> None:
    """Throw away what is still in stdout's buffer."""
    # what is still in the buffer would fail again at exit
    with contextlib.suppress(AttributeError, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Talk goes to stderr: stdout is for data. Whatever it repeats of files and words cannot drive the terminal."""
    print("\n".join(map(_line, text.split("\n"))), file=sys.stderr, flush=True)


@contextlib.contextmanager
def line() -> Iterator[Callable[[str], None]]:
    """What shows how far something is: one line of a terminal that changes, and goes at the end; elsewhere nothing."""
    width = shutil.get_terminal_size().columns - 1

    def tell(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{units.printable(text)[:width]}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _line(text: str) -> str:
    """One line of a message, of which a very long word or path is cut."""
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 4 :]}"
    return units.printable(short)


def say_problems(error: LauncherError) -> int:
    """Say every problem of `error`; one with a place needs no prefix. Returns its exit code."""
    for problem in error.problems:
        say(f"{'' if problem.place else 'error: '}{problem}")
    return error.exit_code

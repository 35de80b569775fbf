"""A stream to files: each under another name until it is whole, and none by the stream's own names.

Owns the line to a sender (docker/sender.py) and how what comes is written; what may be written is receiving.py's. The
other end may be anybody's program: it gets no memory without end, no more bytes than it announced, and no way out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from launcher import atomic
from launcher.errors import SubmitError
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_BLOCK = 2**20
_MOST = 2**28  # bytes of a line: the names of millions of files


class Line(Protocol):
    """A line to a sender that runs. All but `finish` raise SubmitError when it is broken."""

    def write(self, data: bytes) -> None:
        """To the sender's stdin."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes of its stdout; b"" at the end."""

    def readline(self, most: int) -> bytes:
        """As of a file, at most `most` bytes."""

    def finish(self) -> str:
        """Wait for its end, which must be all that still comes. Returns what went wrong; '' for nothing."""


@dataclass
class Progress:
    """Tells `watch` the bytes that have come, all that will, and the file that they are of."""

    watch: Callable[[int, int, str], None]
    total: int
    come: int = 0

    def more(self, size: int, path: str) -> None:
        self.come += size
        self.watch(self.come, self.total, path)


class _Head(NamedTuple):
    """What comes before a file: its place in what was asked for, bytes, mode, Unix time."""

    place: int
    size: int
    mode: int
    time: float


def answer(line: Line) -> Any:
    """The next line that says something, which is JSON. Raises SubmitError."""
    while text := line.readline(_MOST):
        if text.strip():
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                break
    what = text[:4000].decode("utf-8", "replace").strip()[:200] or "nothing"
    why = "" if text else line.finish()
    raise SubmitError(f"the run folder cannot be read: {why or f'the answer was {what}'}")


def files(line: Line, dest: Path, asked: Sequence[tuple[str, int]], progress: Progress) -> list[str]:
    """Write the files that were asked for, (path, the most bytes), in this order, below `dest`; return those that came.

    Raises SubmitError when the stream breaks; what had come stays.
    """
    written, place = list[str](), -1
    while head := _head(line):
        if not place < head.place < len(asked) or not 0 <= head.size <= asked[head.place][1]:
            raise _broken("the other end sends what it was not asked for")
        place, path = head.place, asked[head.place][0]
        _write(line, _placed(dest, path), head, lambda size, path=path: progress.more(size, path))  # type: ignore[misc]
        written.append(path)
    if wrong := line.finish():
        raise _broken(wrong)
    return written


def _head(line: Line) -> _Head | None:
    """What comes next; None after the last file."""
    said = _heard(line)
    if said == []:
        return None
    try:
        place, size, mode, when = said
        head = _Head(int(place), int(size), int(mode), float(when))
    except (TypeError, ValueError, OverflowError):
        raise _broken("the other end does not speak as it should") from None
    return head if abs(head.time) < 2**33 else head._replace(time=0.0)  # beyond what a file system has, NaN


def _heard(line: Line) -> Any:
    try:
        return answer(line)
    except SubmitError as error:
        raise _broken(error.problems[0].message.partition(": ")[2]) from None


def _broken(why: str) -> SubmitError:
    hint = "do the same again: what has come is not sent twice"
    return SubmitError(f"the files did not all come: {why}", hint=hint)


def _write(line: Line, whole: Path, head: _Head, more: Callable[[int], None]) -> None:
    """Raises SubmitError when the file is cut; then nothing of it is left."""
    left = head.size
    with atomic.draft(whole) as draft:
        with atomic.create(draft, 0o777 if head.mode & 0o100 else 0o666) as file:
            while left:
                block = line.read(min(left, _BLOCK))
                if not block:
                    raise _broken(line.finish() or f"{whole.name} was cut")
                file.write(block)
                left -= len(block)
                more(len(block))
        os.utime(draft, (head.time, head.time))


def _placed(dest: Path, path: str) -> Path:
    """Where `path` goes, in folders that are made. Raises SubmitError where one is a link: it may lead out of `dest`.

    Looked at when it is written, since what came before it may be such a link.
    """
    whole = dest / path
    for folder in reversed([place for place in whole.parents if dest in place.parents]):
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise _broken(f"the other end names {path!r} below {folder.name!r}, which is no folder")
        folder.mkdir(exist_ok=True)
    return whole


def link(dest: Path, path: str, target: str) -> None:
    """Make a link below `dest`, in the place of what is there. Raises SubmitError as `files` does."""
    with atomic.draft(_placed(dest, path)) as draft:
        draft.symlink_to(target)

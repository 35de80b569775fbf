"""A tar stream to files: each under another name until it is whole, and none by the stream's own names.

Owns the line to a sender (docker/sender.py) and how what comes is written; what may be written is receiving.py's.
"""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol

from launcher import atomic
from launcher.errors import SubmitError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_BLOCK = 2**20


class Line(Protocol):
    """A line to a sender that runs. All but `finish` raise SubmitError when it is broken."""

    def write(self, data: bytes) -> None:
        """To the sender's stdin."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes of its stdout; b"" at the end."""

    def readline(self) -> bytes:
        """As of a file."""

    def finish(self) -> str:
        """Wait for its end. Returns what went wrong; '' for nothing."""


@dataclass
class Progress:
    """Tells `watch` the bytes that have come, all that will, and the file that they are of."""

    watch: Callable[[int, int, str], None]
    total: int
    come: int = 0

    def more(self, size: int, path: str) -> None:
        self.come += size
        self.watch(self.come, self.total, path)


def files(line: Line, dest: Path, paths: Sequence[str], progress: Progress) -> list[str]:
    """Write the files that were asked for, in this order, below `dest`. Returns those that came.

    Raises SubmitError when the stream breaks; what had come stays.
    """
    written = []
    try:
        with tarfile.open(fileobj=_Stream(line), mode="r|", bufsize=_BLOCK) as tar:
            for member in tar:
                path, source = paths[int(member.name)], tar.extractfile(member)
                if not member.isreg() or source is None:
                    raise tarfile.ReadError(f"{member.name} is no file")
                _write(dest / path, member, source, lambda size, path=path: progress.more(size, path))  # type: ignore[misc]
                written.append(path)
    except (tarfile.TarError, ValueError, IndexError, EOFError) as error:
        raise _broken(line.finish() or str(error)) from None
    if wrong := line.finish():
        raise _broken(wrong)
    return written


class _Stream(io.RawIOBase):
    """A line as tarfile reads it."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def read(self, size: int = -1) -> bytes:
        return self.line.read(size)


def _broken(why: str) -> SubmitError:
    hint = "do the same again: what has come is not sent twice"
    return SubmitError(f"the files did not all come: {why}", hint=hint)


def _write(path: Path, member: tarfile.TarInfo, source: IO[bytes], more: Callable[[int], None]) -> None:
    """Raises tarfile.ReadError when the file is cut; then nothing of it is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with atomic.draft(path) as draft:
        with atomic.create(draft, 0o777 if member.mode & 0o100 else 0o666) as file:
            while block := source.read(_BLOCK):
                file.write(block)
                left -= len(block)
                more(len(block))
        if left:
            raise tarfile.ReadError(f"{path.name} was cut")
        os.utime(draft, (member.mtime, member.mtime))


def link(path: Path, target: str) -> None:
    """Make a link, in the place of what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.draft(path) as draft:
        draft.symlink_to(target)

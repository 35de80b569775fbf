"""Files below a run folder, opened so that none of them holds a command up: others and crashes write there too.

Owns what is no record: a FIFO or a device, which would block for ever, and more bytes than any record has.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 2**24  # bytes of a record


def opened(path: Path) -> BinaryIO:
    """The file at `path`, for reading. Raises OSError, also for what is no regular file."""
    descriptor = os.open(
        path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # of a FIFO too this returns at once
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "Not a regular file")


def content(path: Path) -> bytes:
    """What is in a record. Raises OSError, also for one that is too large."""
    with opened(path) as file:
        read = file.read(_MOST + 1)
    if len(read) > _MOST:
        raise OSError(errno.EFBIG, f"More than {_MOST:,} bytes")
    return read


def text(path: Path, errors: str = "strict") -> str:
    """What is in a record, as text. Raises OSError, and UnicodeDecodeError unless `errors` says what becomes of it."""
    return content(path).decode("utf-8", errors)

"""Files that are whole or not there, and never somebody else's.

Owns the way a file is written; what is in it, and where, is the callers'.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO


def write(path: Path, data: bytes) -> None:
    """Put a file with `data` in the place of `path`. Raises OSError, with what was there as it was.

    A link at `path` is replaced, not followed.
    """
    with draft(path) as half, create(half) as file:
        file.write(data)


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """A name beside `path` that nobody can know before: what is there at the end takes the place of `path`."""
    half = path.with_name(f".{path.name[:200]}.{os.urandom(8).hex()}")
    try:
        yield half
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def create(path: Path, mode: int = 0o666) -> BinaryIO:
    """A new file to write to. Raises FileExistsError where anything is there."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb")


def is_foreign(path: Path, mark: str, text: str) -> bool:
    """Whether there is something at `path` that is neither `text` nor a file with `mark` in its first lines."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return True
    if not path.exists():
        return False
    current = path.read_bytes()
    return mark.encode() not in b"".join(current.splitlines(keepends=True)[:5]) and current != encoded(text)


def encoded(text: str) -> bytes:
    """`text` as it is written: paths and values that are not UTF-8 keep their bytes."""
    return text.encode("utf-8", "surrogateescape")

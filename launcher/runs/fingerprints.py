"""What tells two states of a file or a folder apart, at a cost that does not grow with their size.

Owns how much is read: of a file up to 16 MiB all, of a larger one 16 pieces of 1 MiB from its start to its end, and of
a folder its first 10,000 names with their sizes. What was not read whole has its time of change beside its hash.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 2**20
PIECES = 16
_MOST_FILES = 10_000
_SMALL = 64 * 2**20  # bytes of a folder whose files are read whole


def of(path: Path) -> dict[str, Any] | None:
    """The fingerprint of what is at `path`; None where nothing can be read there.

    `kind`, `bytes`, `modified` (Unix time), `sha256`, and `hashed`: what went into the hash.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            return _folder(path)
        if not stat.S_ISREG(found.st_mode):  # a FIFO would block for ever
            return None
        digest, whole = _file(path, found.st_size)
    except OSError:
        return None
    return {
        "kind": "file",
        "bytes": found.st_size,
        "modified": round(found.st_mtime, 3),
        "sha256": digest,
        "hashed": "all" if whole else f"{PIECES} pieces of {PIECE} bytes",
    }


def differ(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Whether two fingerprints are of different content; of what was not read whole, also when the times differ."""
    if one is None or other is None:
        return one is not other
    keys = ["kind", "bytes", "sha256", "hashed"] + ([] if one.get("hashed") == "all" else ["modified"])
    return any(one.get(key) != other.get(key) for key in keys)


def text(content: str) -> str:
    """The hash of a text."""
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def folder_hash(folder: Path, suffixes: tuple[str, ...] = ()) -> str | None:
    """The hash of names and contents of all files below `folder`, or of those with such `suffixes`; None without it.

    What Python compiled is left out. Links are told by what they lead to as text.
    """
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(_files(folder)):
        if suffixes and path.suffix not in suffixes:
            continue
        name = os.fsencode(path.relative_to(folder))
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        digest.update(b"%d:%s:%d:" % (len(name), name, len(content)))
        digest.update(content)
    return digest.hexdigest()


def _file(path: Path, size: int) -> tuple[str, bool]:
    """(hash, whether all was read)."""
    digest, whole = hashlib.sha256(), size <= PIECE * PIECES
    with path.open("rb") as file:
        for number in range(PIECES):
            if not whole:
                file.seek((size - PIECE) * number // (PIECES - 1))
            digest.update(file.read(PIECE))
    return digest.hexdigest(), whole


def _folder(folder: Path) -> dict[str, Any]:
    """Of names and sizes, and of the contents too where they are small together."""
    paths = sorted(_files(folder))
    stats = [(path, path.lstat()) for path in paths[:_MOST_FILES]]
    size = sum(found.st_size for _, found in stats)
    whole = len(paths) <= _MOST_FILES and size <= _SMALL
    digest = hashlib.sha256()
    for path, found in stats:
        name = os.fsencode(path.relative_to(folder))
        digest.update(b"%d:%s:%d:" % (len(name), name, found.st_size))
        if whole and stat.S_ISREG(found.st_mode):
            digest.update(path.read_bytes())
    return {
        "kind": "folder",
        "files": len(paths),
        "bytes": size,
        "modified": round(max((found.st_mtime for _, found in stats), default=0.0), 3),
        "sha256": digest.hexdigest(),
        "hashed": "all" if whole else f"names and sizes of the first {_MOST_FILES} files",
    }


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in {"__pycache__", ".git"})
        yield from (Path(parent) / name for name in sorted(names) if not name.endswith(".pyc"))
        yield from (Path(parent) / name for name in folders if (Path(parent) / name).is_symlink())

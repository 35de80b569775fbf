"""Text: where it comes from, as pieces of documents.

Owns the sources of --data; their tokens are corpus.py's, and the order in which a rank reads them is samples.py's.
"""

from __future__ import annotations

import glob
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIXES = (".txt", ".md", ".jsonl")
PIECE = 1 << 16  # characters read as one piece, cut at a line's end


def check(sources: list[str]) -> None:
    """Raise Stop when a file or folder among the sources does not exist."""
    for source in sources:
        if source != "builtin" and not source.startswith("hf:"):
            files(source)


def pieces(sources: list[str]) -> Iterator[str | None]:
    """The text of all sources in pieces of at most a few dozen kilobytes; None ends a document.

    A document is a file, a line of .jsonl, a row of a data set, and of `builtin` one topic of Python's reference.
    """
    for source in sources:
        if source == "builtin":
            yield from _builtin()
        elif source.startswith("hf:"):
            yield from _hugging_face(source.removeprefix("hf:"))
        else:
            for path in files(source):
                yield from _file(path)


def fingerprint(source: str) -> Any:
    """What shows whether a source has changed: names, sizes and times of its files, Python's version for builtin."""
    if source == "builtin":
        return source, platform.python_version()
    if source.startswith("hf:"):
        return source
    return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files(source)]


def _builtin() -> Iterator[str | None]:
    from pydoc_data.topics import topics

    for text in topics.values():
        yield text
        yield None


def files(source: str) -> list[Path]:
    """The files of a path, a folder or a glob, sorted. Raises Stop when there are none."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        paths = [file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file()]
        if not paths:
            raise Stop(f"--data {source}: no {', '.join(SUFFIXES)} file in this folder")
    else:
        paths = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207
        if not paths:
            raise Stop(f"--data {source}: no such file or folder (builtin and hf:NAME are the other sources)")
    return sorted(paths)


def _file(path: Path) -> Iterator[str | None]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                try:
                    yield str(json.loads(line)["text"])
                except (ValueError, KeyError, TypeError) as error:
                    raise Stop(f'--data {path}:{number}: not a JSON object with a "text"') from error
                yield None
        else:
            while lines := file.readlines(PIECE):
                yield "".join(lines)
            yield None


def hugging_face(name: str, column: str = "") -> Iterator[dict[str, Any]]:
    """The rows of a Hugging Face data set NAME[@SUBSET][:SPLIT], or one column of them.

    Raises Stop if there is no such data set or column.
    """
    try:
        import datasets
    except ImportError as error:
        raise Stop(f"--data hf:{name}: the package datasets is not installed") from error

    place, split = [*name.split(":"), ""][:2]
    place, _, subset = place.partition("@")
    try:
        rows = datasets.load_dataset(place, subset or None, split=split or "train")
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Stop(f"--data hf:{name}: {reason}") from error
    if column:
        if column not in rows.column_names:
            raise Stop(f"--data hf:{name}: no column {column!r} among {', '.join(rows.column_names)}")
        rows = rows.select_columns([column])
    yield from rows


def _hugging_face(name: str) -> Iterator[str | None]:
    place, split, column = [*name.split(":"), "", ""][:3]
    column = column or "text"
    for row in hugging_face(f"{place}:{split}", column):
        yield str(row[column])
        yield None

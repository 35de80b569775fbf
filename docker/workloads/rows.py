"""Rows of example files: .jsonl, also compressed, .json with a list, and .parquet; each with the place it stands at.

Owns how such a file is read and what is wrong with one. What a row means is formats.py's, the text of pretraining is
text.py's.
"""

from __future__ import annotations

import glob
import gzip
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import sources, text
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
OTHERS = (".csv", ".tsv", ".txt", ".md", ".arrow", ".bin")


def mistake(given: Sequence[str]) -> str:
    """What is wrong with the words of --data by their names alone: files of another kind; empty where nothing is."""
    other = next((w for w in given if w.endswith(OTHERS) and not w.startswith("hf:")), "")
    return f"--data {other}: examples are rows of {', '.join(SUFFIXES)} files" if other else ""


def read(source: str) -> Iterator[tuple[str, Any]]:
    """Each row of a source of --data, after its place (FILE:LINE). Raises Stop, with the place, for what is no row."""
    if source.startswith("{"):
        raise Stop(f"--data {source}: weights are for text to pretrain on: name the file or data set alone")
    if source.startswith("hf:") or sources.saved(source):
        for number, row in enumerate(text.hugging_face(source.removeprefix("hf:")), 1):
            yield f"--data {source}: row {number}", row
        return
    for path in files(source):
        reader = next((reader for suffix, reader in _READERS.items() if path.name.endswith(suffix)), _lines)
        yield from reader(path)


def files(source: str) -> list[Path]:
    """The files of a path, a folder or a glob, sorted; of a folder those with examples. Raises Stop for none."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        paths = [file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file()]
        if not paths:
            raise Stop(f"--data {source}: no {', '.join(SUFFIXES)} file in this folder")
    else:
        paths = [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]  # noqa: PTH207
        if not paths:
            raise Stop(f"--data {source}: no such file or folder (builtin and hf:NAME are the other sources)")
    return sorted(paths)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"--data {path}:{number}", _parsed(line, f"--data {path}:{number}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Stop(
            f"--data {path}: not a whole gzip file ({error}) after line {number}: make it anew"
        ) from error
    except OSError as error:
        raise Stop(f"--data {path}: {error.strerror}") from error


def _list(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Stop(f"--data {path}: {error.strerror}") from error
    whole = _parsed(content, f"--data {path}")
    if not isinstance(whole, list):
        raise Stop(
            f"--data {path}: not a list of objects; a file with an object on each line is called .jsonl"
        )
    for number, row in enumerate(whole, 1):
        yield f"--data {path}: row {number}", row


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet
        from pyarrow import ArrowException
    except ImportError as error:
        raise Stop(f"--data {path}: the package pyarrow is not installed") from error

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
            yield f"--data {path}: row {number}", row
    except (ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise Stop(f"--data {path}: not a whole Parquet file: {reason}") from error


def _parsed(content: bytes, place: str) -> Any:
    try:
        row = json.loads(content.decode("utf-8-sig"))
        if b"\\u" in content:
            json.dumps(row, ensure_ascii=False).encode()
        return row
    except UnicodeDecodeError as error:
        raise Stop(
            f"{place}: not UTF-8 (byte {error.start + 1}): convert the file, such as by iconv"
        ) from error
    except UnicodeEncodeError as error:
        raise Stop(
            f"{place}: half of a surrogate pair, which is no character: mend the row, or leave it out"
        ) from error
    except ValueError as error:
        lines = ": a file with an object on each line is called .jsonl" if "Extra data" in str(error) else ""
        raise Stop(f"{place}: not JSON: {error}{lines}") from error
    except RecursionError:
        raise Stop(f"{place}: JSON that is nested too deeply") from None


_READERS = {".jsonl.gz": _lines, ".jsonl": _lines, ".json": _list, ".parquet": _table}

"""The text of a part, checked while it is read: every mistake is told with its file, its line and what to do.

Owns UTF-8, JSON lines, compression and tables; which part of which file is cutting.py's.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads import sources, zstd_frames
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workloads.cutting import Part

MARK = "\ufeff"  # of UTF-8, which Windows writes at the start of a file: no part of the text
PIECE = 1 << 16  # bytes read as one piece of a document, which ends with a line
ROWS = 256  # of a table at once
KINDS = {"dict": "an object", "list": "a list", "int": "a number", "float": "a number", "NoneType": "null"}


def pieces(part: Part) -> Iterator[str | None]:
    """The text of a part in pieces; None ends a document. A document that goes on in the next part has no end.

    A document is a file, a line of .jsonl, a row of a table or a data set, and of `builtin` one topic of Python's
    reference. Raises Stop for what is no text.
    """
    if part.kind == "text":
        yield from _text(part)
        if part.ends:
            yield None
        return
    for text, place in _DOCUMENTS[part.kind](part):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Stop(
                f"--data {place}: half of a surrogate pair, {text[error.start]!a}, which is no character: mend or "
                "remove it"
            ) from error
        yield text
        yield None


def _text(part: Part) -> Iterator[str]:
    with Path(part.path).open("rb") as file:
        file.seek(part.first)
        place = part.first
        while place < part.end:
            raw = file.read(min(PIECE, part.end - place))
            if not raw:
                raise _changed(part)
            rest = min(PIECE, part.end - place - len(raw))
            raw += file.readline(rest) if rest else b""
            if place + len(raw) < part.end and not raw.endswith(b"\n"):
                raw = raw[: _whole(raw)]
                file.seek(place + len(raw))
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(Path(part.path), place + error.start, raw[error.start]) from error
            yield text.removeprefix(MARK) if place == 0 else text
            place += len(raw)


def _whole(raw: bytes) -> int:
    """How much of a line that is longer than a piece is taken: up to a blank, or to a character's end."""
    if (blank := raw.rfind(b" ")) > 0:
        return blank
    back = next((n for n in range(1, 4) if raw[-n] & 0xC0 == 0xC0), 0)  # where the last character begins
    return len(raw) - back


def _changed(part: Part) -> Stop:
    return Stop(
        f"--data {part.path}: it became shorter while it was read: wait until it is written, and start again"
    )


def _not_utf8(path: Path, place: int, byte: int) -> Stop:
    line = 1 + _newlines(path, place)
    return Stop(
        f"--data {path}:{line}: byte 0x{byte:02x} is not UTF-8: convert the file (iconv -f LATIN1 -t UTF-8), or mend "
        "this line"
    )


def _newlines(path: Path, end: int) -> int:
    """How many lines end before this byte."""
    count, left = 0, end
    with path.open("rb") as file:
        while left and (raw := file.read(min(PIECE, left))):
            count += raw.count(b"\n")
            left -= len(raw)
    return count


def _lines(part: Part) -> Iterator[tuple[str, str]]:
    path = Path(part.path)
    with path.open("rb") as file:
        file.seek(part.first)
        before: int | None = (
            None if part.first else 0
        )  # lines before the part are counted when one is to be named
        left = part.end - part.first
        for number, line in enumerate(file, 1):
            if left <= 0:
                break
            left -= len(line)
            if number == 1 and part.first == 0:
                line = line.removeprefix(MARK.encode())
            if not line.strip():
                continue
            try:
                text = _json_text(line, part.column)
            except ValueError as error:
                before = _newlines(path, part.first) if before is None else before
                raise Stop(f"--data {path}:{before + number}: {error}") from error
            yield text, f"{path}, byte {part.end - left - len(line)}"
    if left > 0:
        raise _changed(part)


def _packed(part: Part) -> Iterator[tuple[str, str]]:
    number = 0
    try:
        with _unpacked(Path(part.path)) as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(MARK.encode())
                if not line.strip():
                    continue
                try:
                    text = _json_text(line, part.column)
                except ValueError as error:
                    raise Stop(f"--data {part.path}:{number}: {error}") from error
                yield text, f"{part.path}:{number}"
    except (EOFError, OSError, zlib.error) as error:
        raise Stop(
            f"--data {part.path}:{number + 1}: the compressed data is cut off or broken ({error}): copy it again"
        ) from error
    if not number:
        raise Stop(f"--data {part.path}: is empty: remove it, or leave it out of --data")


def _unpacked(path: Path) -> io.BufferedReader:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path, "rb"), PIECE)
    return io.BufferedReader(zstd_frames.Frames(path), PIECE)


def _json_text(line: bytes, column: str) -> str:
    """The text of a line. Raises ValueError with what is wrong and what to do."""
    try:
        row = json.loads(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte 0x{line[error.start]:02x} is not UTF-8: convert the file, or mend this line"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"broken JSON at column {error.colno} ({error.msg}): mend or remove this line"
        ) from error
    except RecursionError as error:
        raise ValueError("JSON nested too deeply: mend or remove this line") from error
    if not isinstance(row, dict):
        raise ValueError(f'not a JSON object with a "{column}": mend or remove this line')
    if column not in row:
        raise ValueError(
            f'not a JSON object with a "{column}": it has {", ".join(map(str, row)) or "nothing"}; name the column, as '
            '{"path": …, "column": …}'
        )
    return _string(row[column], column)


def _string(value: Any, column: str) -> str:
    if not isinstance(value, str):
        kind = KINDS.get(type(value).__name__, type(value).__name__)
        raise ValueError(f'"{column}" is {kind}, not a string: mend or remove it, or name another column')
    return value


def _table(part: Part) -> Iterator[tuple[str, str]]:
    from pyarrow import ArrowException, parquet

    number = 0
    try:
        with parquet.ParquetFile(part.path) as table:
            groups = list(range(part.first, part.end))
            number = sum(table.metadata.row_group(group).num_rows for group in range(part.first))
            for batch in table.iter_batches(ROWS, row_groups=groups, columns=[part.column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield _row(value, part.column, f"{part.path}, row {number}")
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise Stop(f"--data {part.path}, row {number + 1}: {error}: copy or write it again") from error


def _rows(part: Part) -> Iterator[tuple[str, str]]:
    rows = sources.data_set(sources.Rows(part.path, part.split, part.column))
    for first in range(part.first, part.end, ROWS):
        values = rows[first : min(first + ROWS, part.end)][part.column]
        for number, value in enumerate(values, first + 1):
            yield _row(value, part.column, f"{part.path}, row {number}")


def _row(value: Any, column: str, place: str) -> tuple[str, str]:
    try:
        return _string(value, column), place
    except ValueError as error:
        raise Stop(f"--data {place}: {error}") from error


def _builtin(part: Part) -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    for text in topics.values():
        yield text, part.path


_DOCUMENTS = {
    "builtin": _builtin,
    "lines": _lines,
    "packed lines": _packed,
    "table": _table,
    "rows": _rows,
}

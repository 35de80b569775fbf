"""Where sources are cut into shards: a rule that depends on the sources alone.

So the same text gives the same files, whatever the number of processes and hosts and however often it was interrupted.
A file is cut at the ends of its lines, a table at its row groups, a data set at its rows, tokens at their documents.
Compressed files are not cut.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workloads import megatron, packages, sources, token_files
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from workloads.sources import Source

SHARDS = 1024  # aimed at, between these sizes
SMALLEST, LARGEST = 1 << 20, 1 << 30  # bytes of source in a shard
WINDOW = 1 << 20  # bytes in which a place for a cut is looked for
PACKED = (".bz2", ".gz", ".xz", ".zip", ".zst")
EMPTY = "is empty: remove it, or leave it out of --data"


class Part(NamedTuple):
    """A stretch of a source that is read at once."""

    kind: str  # builtin, text, lines, packed lines, table, rows, megatron, tokens
    path: str
    first: int  # a byte, row group, row, document or token
    end: int  # the one after the last
    size: int  # bytes, for progress
    column: str = sources.COLUMN
    split: str = ""  # of a data set
    begins: bool = True  # at the beginning of a document
    ends: bool = True  # at the end of one


class Shard(NamedTuple):
    """What becomes one pair of files."""

    name: str
    source: int  # its number in --data
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of source."""
        return sum(part.size for part in self.parts)


def shards(given: list[Source], end_token: int | None) -> list[Shard]:
    """The shards of all sources, in order; `end_token` tells documents in files of tokens apart.

    Reads no text, and raises Stop for what is wrong with the files as a whole: none, empty, cut off, no such column.
    """
    wholes = [list(_wholes(source)) for source in given]
    total = sum(part.size for parts in wholes for part in parts)
    size = min(max(total // SHARDS, SMALLEST), LARGEST)
    made: list[Shard] = []
    for number, parts in enumerate(wholes):
        together: list[Part] = []
        together_size = 0  # a sum over them for each one would take hours for millions of small files
        for part in (piece for whole in parts for piece in _cut(whole, size, end_token)):
            together.append(part)
            together_size += part.size
            if together_size >= size * 3 // 4:  # pieces of a file are a little below `size`
                made.append(Shard(f"{len(made):05}", number, tuple(together)))
                together, together_size = [], 0
        if together:
            made.append(Shard(f"{len(made):05}", number, tuple(together)))
    return made


def text_parts(given: list[Source]) -> Iterator[Part]:
    """The parts of the sources that are text, each file whole."""
    for source in given:
        for part in _wholes(source):
            if part.kind not in ("megatron", "tokens"):
                yield part


def _wholes(source: Source) -> Iterator[Part]:
    """A part for each file of a source."""
    if source.path == sources.BUILTIN:
        from pydoc_data.topics import topics

        yield Part("builtin", source.path, 0, len(topics), size=sum(map(len, topics.values())))
    elif source.rows:
        name, split, column = source.rows
        rows = sources.data_set(source.rows)
        if not len(rows):
            raise Stop(f"--data {source.path}: the data set has no rows")
        size = max(1, rows.data.nbytes)
        yield Part("rows", name, 0, len(rows), size=size, column=column, split=split)
    else:
        for path in sources.files(source.path):
            yield _file(path, source)


def _file(path: Path, source: Source) -> Part:
    size = path.stat().st_size
    if not size:
        raise Stop(f"--data {path}: {EMPTY}")
    name = str(path)
    if path.suffix == ".bin":
        return _tokens(path)
    if path.suffix == ".parquet":
        return _table(path, source.column)
    if name.endswith((".jsonl.gz", ".jsonl.zst")):
        if path.suffix == ".zst":
            packages.require("zstandard", f"--data {path}")
        return Part("packed lines", name, 0, 1, size=size, column=source.column)
    if path.suffix in PACKED:
        raise Stop(f"--data {path}: compressed text is read of .jsonl.gz and .jsonl.zst alone: unpack it")
    if wrong := sources.of_another_kind(name):
        raise Stop(wrong)
    kind = "lines" if path.suffix == ".jsonl" else "text"
    return Part(kind, name, 0, size, size=size, column=source.column)


def _tokens(path: Path) -> Part:
    if path.with_suffix(".idx").is_file():
        index = megatron.read_index(path.with_suffix(".idx"))
        megatron.check(index, path)
        return Part("megatron", str(path), 0, len(index.documents) - 1, size=path.stat().st_size)
    tokens = token_files.read(path)
    if not tokens.length:
        raise Stop(f"--data {path}: {EMPTY}")
    return Part("tokens", str(path), 0, tokens.length, size=path.stat().st_size)


def _table(path: Path, column: str) -> Part:
    packages.require("pyarrow", f"--data {path}")
    from pyarrow import ArrowException, parquet, types

    try:
        with parquet.ParquetFile(path) as table:
            schema, groups, rows = table.schema_arrow, table.num_row_groups, table.metadata.num_rows
    except (ArrowException, OSError) as error:
        raise Stop(f"--data {path}: not a whole Parquet file: {error}: copy it again") from error
    if column not in schema.names:
        raise Stop(
            f"--data {path}: no column {column!r} among {', '.join(schema.names)}: name one, as "
            '{"path": …, "column": …}'
        )
    kind = schema.field(column).type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise Stop(f"--data {path}: column {column!r} holds {kind}, not strings: name another")
    if not rows:
        raise Stop(f"--data {path}: {EMPTY}")
    return Part("table", str(path), 0, groups, size=path.stat().st_size, column=column)


def _cut(part: Part, size: int, end_token: int | None) -> Iterator[Part]:
    """A part in pieces of about `size` bytes."""
    pieces = min(-(-part.size // size), part.end - part.first)
    if pieces <= 1 or part.kind in ("builtin", "packed lines"):
        yield part
        return
    spots = [part.first + (part.end - part.first) * n // pieces for n in range(1, pieces)]
    middle = False  # of a document
    if part.kind in ("text", "lines"):
        spots = [_line_end(Path(part.path), spot, strict=part.kind == "lines") for spot in spots]
        middle = part.kind == "text"
    elif part.kind == "tokens":
        tokens = token_files.read(Path(part.path))
        spots = [_document_end(tokens, spot, end_token) for spot in spots]
    edges = [part.first, *sorted({spot for spot in spots if spot < part.end}), part.end]
    for first, end in itertools.pairwise(edges):
        share = part.size * (end - first) // (part.end - part.first)
        yield part._replace(
            first=first,
            end=end,
            size=max(1, share),
            begins=first == part.first or not middle,
            ends=end == part.end or not middle,
        )


def _line_end(path: Path, spot: int, *, strict: bool) -> int:
    """The end of the line that holds byte `spot`; unless `strict`, near it a blank or a character's end will do."""
    with path.open("rb") as file:
        file.seek(spot)
        passed = 0
        while window := file.read(WINDOW):
            if (line := window.find(b"\n")) >= 0:
                return spot + passed + line + 1
            if not strict:
                blank = window.find(b" ")
                return spot + (blank if blank >= 0 else character_end(window))
            passed += len(window)
        return spot + passed


def character_end(raw: bytes) -> int:
    """The first place of UTF-8 text at which no character is cut."""
    return next((n for n, byte in enumerate(raw[:4]) if byte & 0xC0 != 0x80), 0)


def _document_end(tokens: token_files.Tokens, spot: int, end_token: int | None) -> int:
    """The end of the document that holds token `spot`, or `spot` where it is far."""
    import numpy as np

    if end_token is None:
        return spot
    near = np.flatnonzero(tokens.ids()[spot : spot + WINDOW] == end_token)
    return spot + int(near[0]) + (0 if tokens.end_first else 1) if len(near) else spot

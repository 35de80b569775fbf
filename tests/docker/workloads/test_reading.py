"""Text of every kind is read, and what is wrong with it is told with its file, its line and what to do."""

from __future__ import annotations

import gzip
import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")
pytest.importorskip("transformers", reason="the train extra is not installed")
pyarrow = pytest.importorskip("pyarrow", reason="the train extra is not installed")
zstandard = pytest.importorskip("zstandard", reason="the train extra is not installed")

from pyarrow import parquet  # noqa: E402
from workloads import cache, corpus, cutting, reading, session, sources, text, token_shards, tokenizer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.torch

LINES = b"".join(json.dumps({"text": f"document {n}", "other": "x"}).encode() + b"\n" for n in range(500))
DOCUMENTS = [f"document {n}" for n in range(500)]


def zstd(raw: bytes) -> bytes:
    compressed: bytes = zstandard.ZstdCompressor().compress(raw)
    return compressed


def table(path: Path, values: Any, column: str = "text", **more: Any) -> None:
    parquet.write_table(pyarrow.table({column: values}), path, **more)


def documents(*words: object) -> list[str]:
    """The documents of sources, put together from their pieces."""
    whole, now = [], ""
    for piece in text.pieces([*map(str, words)]):
        if piece is None:
            whole.append(now)
            now = ""
        else:
            now += piece
    return whole


def prepared(within: Path, *words: object) -> corpus.Corpus:
    by = tokenizer.existing("bytes")
    return corpus.read(cache.make([*map(str, words)], by, within, cache.Making(1)))


def written(made: corpus.Corpus) -> bytes:
    training, _ = made.split()
    shards = training._tokens
    return bytes(shards[np.arange(len(shards))])


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(LINES),
    "a.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress(LINES[:9_000], mtime=0) + gzip.compress(LINES[9_000:], mtime=0)
    ),
    "a.jsonl.zst": lambda path: path.write_bytes(zstd(LINES[:9_000]) + zstd(LINES[9_000:])),
    "a.parquet": lambda path: table(path, DOCUMENTS, row_group_size=70),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_holds_the_same_documents(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", 1_000)
    WRITERS[name](tmp_path / name)
    assert documents(tmp_path / name) == DOCUMENTS
    assert written(prepared(tmp_path / "cache", tmp_path)) == "".join(f"{d}\n\n" for d in DOCUMENTS).encode()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt"])
def test_the_mark_that_windows_writes_is_no_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", 1_000)
    raw = b"\xef\xbb\xbf" + (LINES if "jsonl" in name else b"text")
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    assert documents(tmp_path / name) == (DOCUMENTS if "jsonl" in name else ["text"])


def test_a_data_set_that_was_saved_to_disk_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the train extra is not installed")
    one = datasets.Dataset.from_dict({"text": DOCUMENTS, "other": ["x"] * 500})
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select(range(3))}).save_to_disk(tmp_path / "several")
    (tmp_path / "one").rename(tmp_path / "at@home: 'one'")
    assert documents(tmp_path / "at@home: 'one'") == DOCUMENTS
    assert documents(tmp_path / "several") == DOCUMENTS
    assert documents(f"hf:{tmp_path / 'several'}:test") == DOCUMENTS[:3]
    assert documents(json.dumps({"path": str(tmp_path / "at@home: 'one'"), "column": "other"})) == ["x"] * 500
    with pytest.raises(session.Stop, match="no split 'dev' among train, test"):
        documents(f"hf:{tmp_path / 'several'}:dev")


def test_another_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    assert documents(json.dumps({"path": str(tmp_path / "a.jsonl"), "column": "other"})) == ["x"] * 500


@pytest.mark.parametrize(
    "raw",
    [
        "line\n" * 100_000,
        "word " * 100_000,
        "x" * 500_000,
        "é" * 250_000,
        "€\U0001f600" * 60_000,
        "\n" * 300_000,
    ],
    ids=["lines", "words", "one word", "two bytes", "four bytes", "empty lines"],
)
def test_a_file_in_many_shards_is_the_same_document(
    raw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", 100_000)
    monkeypatch.setattr(cutting, "WINDOW", 1_000)
    (tmp_path / "a.txt").write_text(raw)
    made = prepared(tmp_path / "cache", tmp_path / "a.txt")
    assert len(made.shards) > 2
    assert made.documents == 1
    assert made.longest_document == made.tokens
    assert written(made) == raw.encode() + b"\n\n"
    places = np.arange(made.tokens)
    assert (made.split()[0]._tokens.document(places) == 0).all()
    assert max(len(piece.encode()) for piece in documents_pieces(tmp_path / "a.txt")) <= 2 * reading.PIECE


def documents_pieces(path: Path) -> list[str]:
    return [piece for piece in text.pieces([str(path)]) if piece is not None]


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of 1 GB has a thousand shards, and a process often may open 1024 files."""
    monkeypatch.setattr(cutting, "SMALLEST", 500)
    monkeypatch.setattr(token_shards, "_open", lambda: 4)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    shards = prepared(tmp_path / "cache", tmp_path / "a.jsonl").split()[0]._tokens
    assert len(shards._entries) > 16
    before = len(list(Path("/proc/self/fd").iterdir()))
    places = np.arange(len(shards))
    assert len(shards[places]) == len(shards.document(places))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 8


@pytest.mark.parametrize(("limit", "each"), [(1024, 32), (65536, 256), (-1, 256), (64, 8)])
def test_how_many_by_what_the_process_may(limit: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert token_shards._open() == each


def test_documents_keep_their_numbers_over_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", 10_000)
    (tmp_path / "a.txt").write_text("line\n" * 5_000)
    (tmp_path / "b.jsonl").write_bytes(LINES)
    made = prepared(tmp_path / "cache", tmp_path)
    assert len(made.continued) > 1
    numbers = made.split()[0]._tokens.document(np.arange(made.tokens))
    assert numbers[0] == 0
    assert set(np.diff(numbers).tolist()) == {0, 1}
    assert numbers[-1] == made.documents - 1 == 500


BAD: list[tuple[str, bytes, str]] = [
    (
        "rows.csv",
        b"id,text\n1,a\n",
        "rows.csv: text is .txt, .md, .jsonl, .jsonl.gz, .jsonl.zst, .parquet",
    ),
    ("rows.json", b'[{"text": "a"}]', "rows.json: text is .txt, .md, .jsonl"),
    ("ROWS.JSONL", b'{"text": "a"}\n', "ROWS.JSONL: text is .txt, .md, .jsonl"),
    ("empty.txt", b"", "empty.txt: is empty: remove it, or leave it out of --data"),
    ("empty.jsonl", b"", "empty.jsonl: is empty"),
    ("latin.txt", b"one\ntwo\ncaf\xe9\n", "latin.txt:3: byte 0xe9 is not UTF-8: convert the file"),
    ("cut.txt", b"one\n\xe2\x82", "cut.txt:2: byte 0xe2 is not UTF-8"),
    ("latin.jsonl", b'{"text": "x"}\n{"text": "\xe9"}\n', "latin.jsonl:2: byte 0xe9 is not UTF-8"),
    ("cut.jsonl", b'{"text": "x"}\n\n{"text": "y"\n', r"cut.jsonl:3: broken JSON at column 13 \(Expecting"),
    ("word.jsonl", b"hello\n", "word.jsonl:1: broken JSON at column 1"),
    (
        "array.jsonl",
        b'["text"]\n',
        'array.jsonl:1: not a JSON object with a "text": mend or remove this line',
    ),
    ("deep.jsonl", b"[" * 100_000 + b"\n", "deep.jsonl:1: JSON nested too deeply"),
    (
        "other.jsonl",
        b'{"content": "x", "id": 5}\n',
        'other.jsonl:1: .* it has content, id; name the column, as {"path"',
    ),
    ("null.jsonl", b'{"text": null}\n', 'null.jsonl:1: "text" is null, not a string'),
    ("list.jsonl", b'{"text": ["x"]}\n', 'list.jsonl:1: "text" is a list, not a string'),
    ("half.jsonl", b'{"text": "\\ud83d"}\n', "half.jsonl, byte 0: half of a surrogate pair"),
    ("blank.jsonl", b"\n \n", "there is no text in it"),
    (
        "cut.jsonl.gz",
        gzip.compress(LINES, mtime=0)[:-9],
        "cut.jsonl.gz:.*: the compressed data is cut off or broken",
    ),
    ("no.jsonl.gz", LINES, "no.jsonl.gz:1: the compressed data is cut off or broken .Not a gzipped file"),
    (
        "bad.jsonl.gz",
        gzip.compress(b"{}\n", mtime=0),
        'bad.jsonl.gz:1: not a JSON object with a "text": it has nothing',
    ),
    ("none.jsonl.gz", gzip.compress(b"", mtime=0), "none.jsonl.gz: is empty"),
    ("cut.jsonl.zst", zstd(LINES)[:-9], "cut.jsonl.zst:.*: the compressed data is cut off or broken"),
    ("no.jsonl.zst", LINES, "no.jsonl.zst:1: the compressed data is cut off or broken"),
    ("no.parquet", LINES, "no.parquet: not a whole Parquet file"),
]


@pytest.mark.parametrize(("name", "raw", "message"), BAD, ids=[name for name, *_ in BAD])
def test_bad_files_are_told_and_leave_nothing(name: str, raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(session.Stop, match=message) as stop:
        prepared(tmp_path / "cache", tmp_path / name)
    assert stop.value.code == 64
    assert name in stop.value.message
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_bad_tables_are_told(tmp_path: Path) -> None:
    for values, column, message in (
        (["a"], "other", "no column 'text' among other: name one"),
        ([1], "text", "column 'text' holds int64, not strings"),
        (["a", None], "text", 'a.parquet, row 2: "text" is null, not a string'),
        (pyarrow.array([], pyarrow.string()), "text", "is empty"),
    ):
        table(tmp_path / "a.parquet", values, column)
        with pytest.raises(session.Stop) as stop:
            prepared(tmp_path / "cache", tmp_path / "a.parquet")
        assert message in stop.value.message


def test_a_line_is_counted_from_the_files_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", 1_000)
    (tmp_path / "a.jsonl").write_bytes(LINES + b"{\n" + LINES)
    (tmp_path / "b.txt").write_bytes(b"line\n" * 1_000 + b"\xff\n" + b"line\n" * 1_000)
    for name, line in (("a.jsonl", 501), ("b.txt", 1_001)):
        with pytest.raises(session.Stop, match=f"{name}:{line}: "):
            prepared(tmp_path / "cache", tmp_path / name)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (['{"path": "a"'], "broken JSON"),
        (['{"path": "a", "wieght": 1}'], "no key 'wieght'; a source has path, weight, column"),
        (['{"weight": 1}'], '"path" must be'),
        (['{"path": ""}'], '"path" must be'),
        (['{"path": "a", "weight": 0}'], '"weight" must be a number above 0'),
        (['{"path": "a", "weight": "1"}'], '"weight" must be a number above 0'),
        (['{"path": "a", "weight": true}'], '"weight" must be a number above 0'),
        (['{"path": "a", "weight": Infinity}'], '"weight" must be a number above 0'),
        (['{"path": "a", "column": 5}'], '"column" must be the name'),
        (['{"path": "a", "weight": 1}', "b"], "b has no weight and others have"),
    ],
)
def test_bad_words_are_told(words: list[str], message: str) -> None:
    with pytest.raises(session.Stop) as stop:
        sources.parse(words)
    assert message in stop.value.message


def test_words_are_paths_or_objects() -> None:
    assert sources.parse(["a b", '{"path":"c","weight":0.7}', '{"path":"d","weight":2}'][:1]) == [
        sources.Source("a b")
    ]
    assert sources.parse(['{"path":"c","weight":0.7}', '{"path":"d","weight":2}']) == [
        sources.Source("c", 0.7),
        sources.Source("d", 2),
    ]


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("/data/rows.json", True),
        ("/data/*.csv", True),
        ('{"path": "/data/rows.tsv", "weight": 1}', True),
        ("/data/**/*", False),
        ("hf:owner/rows.json", False),
        ("/data/rows.jsonl", False),
    ],
)
def test_rows_are_not_learned_as_text_with_their_brackets_and_commas(word: str, wrong: bool) -> None:
    assert bool(sources.mistake([word])) == wrong
    if wrong:
        with pytest.raises(session.Stop, match="write its rows as"):
            sources.parse([word])

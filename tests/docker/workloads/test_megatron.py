"""Shards are Megatron's, as readers that know nothing of this project read them; tokens of others are checked."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")
torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import cache, corpus, cutting, megatron, session, tokenizer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.torch

DOCUMENTS = [f"document {number} " * (number % 9 + 1) for number in range(300)]


def published(prefix: Path) -> list[list[int]]:
    """The documents of a .bin and .idx, read by the layout alone, with the standard library."""
    raw, data = prefix.with_suffix(".idx").read_bytes(), prefix.with_suffix(".bin").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack_from("<QBQQ", raw, 9)
    assert version == 1
    kind = {1: "B", 4: "i", 8: "H"}[code]
    lengths = struct.unpack_from(f"<{sequences}i", raw, 34)
    pointers = struct.unpack_from(f"<{sequences}q", raw, 34 + 4 * sequences)
    edges = struct.unpack_from(f"<{documents}q", raw, 34 + 12 * sequences)
    assert len(raw) == 34 + 12 * sequences + 8 * documents
    read = [
        list(struct.unpack_from(f"<{n}{kind}", data, at)) for n, at in zip(lengths, pointers, strict=True)
    ]
    assert edges[0] == 0
    return [
        [token for sequence in read[first:end] for token in sequence]
        for first, end in itertools.pairwise(edges)
    ]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": one}) for one in DOCUMENTS))
    return path


def prepared(source: Path, by: Any, within: Path) -> corpus.Corpus:
    return corpus.read(cache.make([str(source)], by, within, cache.Making(1)))


@pytest.fixture(params=["bytes", "bpe:300", "wide"])
def by(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Tokenizers whose ids take one, two and four bytes."""
    if request.param == "bytes":
        return tokenizer.existing("bytes")
    tokenizer.trained("bpe:300", tmp_path / "tokenizer", lambda: iter(DOCUMENTS))
    made = tokenizer.existing(str(tmp_path / "tokenizer"))
    if request.param == "wide":
        made.add_tokens([f"<{number}>" for number in range(1 << 16)])
    return made


def expected(by: Any) -> list[list[int]]:
    ends = [by.eos_token_id] if by.eos_token_id is not None else [10, 10]
    return [[*by(one, add_special_tokens=False).input_ids, *ends] for one in DOCUMENTS]


def test_an_independent_reader_reads_the_documents(
    by: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", 3_000)
    made = prepared(text, by, tmp_path / "cache")
    assert len(made.shards) > 3
    assert made.dtype == {256: "uint8", 300: "uint16"}.get(len(by), "int32")
    read = [document for name, *_ in made.shards for document in published(Path(made.path) / name)]
    assert read == expected(by)
    assert made.documents == len(DOCUMENTS)
    assert made.longest_document == max(map(len, read))
    assert made.tokens == sum(map(len, read))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_megatrons_own_reader_reads_the_documents(by: Any, text: Path, tmp_path: Path) -> None:
    indexed = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="the test extra is not installed"
    )
    made = prepared(text, by, tmp_path / "cache")
    read = indexed.IndexedDataset(str(Path(made.path) / "00000"))
    assert len(read.document_indices) == len(DOCUMENTS) + 1
    assert [read[number].tolist() for number in range(len(read))] == expected(by)


@pytest.mark.parametrize("named", ["prefix", "bin", "idx", "folder"])
def test_what_is_written_is_read_back(named: str, by: Any, text: Path, tmp_path: Path) -> None:
    made = prepared(text, by, tmp_path / "cache")
    first = Path(made.path) / "00000"
    source = {"prefix": first, "folder": first.parent}.get(named, first.with_suffix(f".{named}"))
    again = prepared(source, by, tmp_path / "again")
    for suffix in (".bin", ".idx"):
        assert (Path(again.path) / f"00000{suffix}").read_bytes() == first.with_suffix(suffix).read_bytes()


def test_documents_of_several_sequences_stay_whole(tmp_path: Path) -> None:
    """As Megatron's preprocessing writes them with --split-sentences, here in int32."""
    prefix = tmp_path / "sentences"
    lengths, edges = [2, 3, 1, 4], [0, 2, 2, 4]
    prefix.with_suffix(".bin").write_bytes(struct.pack("<10i", *range(10)))
    pointers = [0, 8, 20, 24]
    prefix.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, 4, 4, 4)
        + struct.pack("<4i4q4q", *lengths, *pointers, *edges)
    )
    made = prepared(prefix, tokenizer.existing("bytes"), tmp_path / "cache")
    assert published(Path(made.path) / "00000") == [[0, 1, 2, 3, 4], [], [5, 6, 7, 8, 9]]


def broken(change: Callable[[bytearray, bytearray], None]) -> Callable[[Path], None]:
    def apply(prefix: Path) -> None:
        parts = [bytearray(prefix.with_suffix(suffix).read_bytes()) for suffix in (".idx", ".bin")]
        change(*parts)
        for suffix, part in zip((".idx", ".bin"), parts, strict=True):
            prefix.with_suffix(suffix).write_bytes(part)

    return apply


def put(place: int, value: bytes) -> Callable[[bytearray, bytearray], None]:
    def change(index: bytearray, _: bytearray) -> None:
        index[place : place + len(value)] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(0, b"X"), "not an index of Megatron's"),
        (put(9, b"\x02"), "version 2 and type 1 of Megatron's index are not known"),
        (put(17, b"\x07"), "version 1 and type 7"),
        (lambda index, _: index.__delitem__(slice(-8, None)), "it is cut off or broken, copy it again"),
        (lambda _, data: data.__delitem__(slice(-1, None)), "one of the two is cut off or of another text"),
        (lambda _, data: data.extend(b"more"), "one of the two is cut off or of another text"),
        (put(34, b"\xff\x00"), "sequence 1 does not begin where the one before ends: the index does not fit"),
        (put(34 + 12 * 300, b"\x01"), "its documents are not all of its sequences"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(
    change: Callable[[bytearray, bytearray], None], message: str, text: Path, tmp_path: Path
) -> None:
    by = tokenizer.existing("bytes")
    prefix = Path(prepared(text, by, tmp_path / "cache").path) / "00000"
    broken(change)(prefix)
    with pytest.raises(session.Stop, match=message) as stop:
        prepared(prefix, by, tmp_path / "again")
    assert str(prefix) in stop.value.message
    assert not (tmp_path / "again").exists() or not list((tmp_path / "again").iterdir())


def test_a_token_beyond_the_vocabulary_is_told(by: Any, text: Path, tmp_path: Path) -> None:
    if len(by) == 256:
        return
    made = prepared(text, by, tmp_path / "cache")
    with pytest.raises(
        session.Stop, match=r"00000.bin, from document 0 on: token \d+ has the id 2\d\d, and the"
    ):
        prepared(Path(made.path) / "00000", tokenizer.existing("bytes"), tmp_path / "again")


def nanogpt(folder: Path, ids: Any) -> Path:
    path = folder / "train.bin"
    np.array(ids, dtype=np.uint16).tofile(path)
    return path


def llmc(folder: Path, ids: Any, number: int = 20240520, version: int = 1) -> Path:
    path = folder / "train.bin"
    header = struct.pack("<3i", number, version, len(ids)).ljust(1024, b"\x00")
    path.write_bytes(header + np.array(ids, dtype="<u2" if version == 1 else "<u4").tobytes())
    return path


@pytest.fixture
def bpe(tmp_path: Path) -> Any:
    tokenizer.trained("bpe:300", tmp_path / "tokenizer", lambda: iter(DOCUMENTS))
    return tokenizer.existing(str(tmp_path / "tokenizer"))


@pytest.mark.parametrize("shard", [200, 1 << 20])
def test_nanogpts_and_llmcs_files_are_read(
    shard: int, bpe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "SMALLEST", shard)
    end = bpe.eos_token_id
    texts = [bpe(one, add_special_tokens=False).input_ids for one in DOCUMENTS[:60]]
    after, before = [[*ids, end] for ids in texts], [[end, *ids] for ids in texts]
    llama = {"number": 20240801, "version": 7}
    for name, write, documents in (
        ("nanogpt", nanogpt, after),
        ("llmc", llmc, before),
        ("llama", lambda folder, ids: llmc(folder, ids, **llama), before),
    ):
        folder = tmp_path / name
        folder.mkdir()
        source = write(folder, [token for ids in documents for token in ids])
        made = prepared(source, bpe, tmp_path / "cache")
        assert (len(made.shards) > 5) == (shard == 200)
        read = [document for shard, *_ in made.shards for document in published(Path(made.path) / shard)]
        assert read == documents


def test_files_of_tokens_are_checked(bpe: Any, tmp_path: Path) -> None:
    cases: list[tuple[Path, str]] = []
    for name in ("odd", "short", "beyond", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "odd/a.bin").write_bytes(b"123")
    cases.append((tmp_path / "odd/a.bin", "3 bytes are no uint16 tokens"))
    short = llmc(tmp_path / "short", [1, 2, 3])
    short.write_bytes(short.read_bytes()[:-2])
    cases.append((short, "its header says 3 tokens, which are 1,030 bytes, and it has 1,028"))
    cases.append(
        (nanogpt(tmp_path / "beyond", [1, 2, 300]), "token 2 has the id 300, and the tokenizer 300 tokens")
    )
    cases.append((llmc(tmp_path / "empty", []), "is empty"))
    for path, message in cases:
        with pytest.raises(session.Stop, match=message) as stop:
            prepared(path, bpe, tmp_path / "cache")
        assert str(path) in stop.value.message
        assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_weights_of_a_model_are_no_tokens(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02" * 600)
    (tmp_path / "a.txt").write_text("text")
    made = prepared(tmp_path, tokenizer.existing("bytes"), tmp_path / "cache")
    assert made.tokens == len("text\n\n")


def test_the_smallest_type_is_taken() -> None:
    assert [megatron.type_for(n) for n in (256, 257, 65_536, 65_537)] == [
        "uint8",
        "uint16",
        "uint16",
        "int32",
    ]

"""Tokens are written once, each document with its begin and end, and some of them are held out from training."""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")
torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import corpus, readers, session, tokenizer  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

pytestmark = pytest.mark.torch


def options(*data: object, name: str = "bytes") -> argparse.Namespace:
    return argparse.Namespace(
        data=[*map(str, data)], tokenizer=name, model="byte-gpt", data_cache=None, data_wait=60.0
    )


def prepared(
    alone: session.Session, *data: object, name: str = "bytes"
) -> tuple[PreTrainedTokenizerBase, corpus.Corpus]:
    return corpus.tokenized(alone, options(*data, name=name), 512)


def written(tokens: corpus.Corpus) -> Any:
    return np.concatenate(
        [np.fromfile(Path(tokens.path) / f"{name}.bin", dtype=tokens.dtype) for name, *_ in tokens.shards]
    )


def read(stream: corpus.Stream) -> bytes:
    return bytes(stream[np.arange(len(stream))])


def articles(folder: Path, kind: str, count: int) -> Path:
    """A .jsonl of documents that name themselves, each about 340 bytes long."""
    path = folder / f"{kind}.jsonl"
    lines = [{"text": f"<{kind}{number}>" + f"{kind} {number} " * 40} for number in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_bytes_are_their_own_tokens(alone: session.Session, tmp_path: Path) -> None:
    source = tmp_path / "a b,$x.txt"
    source.write_bytes("naïve\r\n".encode() * 40)
    bytes_, tokens = prepared(alone, source)
    assert bytes(written(tokens)) == source.read_bytes() + b"\n\n"
    assert tokens.bytes == tokens.tokens
    assert bytes_.decode(list("né\n".encode())) == "né\n"
    assert bytes_("né\n").input_ids == list("né\n".encode())


def test_held_out_are_whole_documents_of_all_sources(alone: session.Session, tmp_path: Path) -> None:
    sources = articles(tmp_path, "alpha", 300), articles(tmp_path, "beta", 300)
    _, tokens = prepared(alone, *sources)
    training, held_out = tokens.split()
    documents = read(held_out).split(b"\n\n")[:-1]
    assert all(document.count(b"<") == 1 and document.startswith(b"<") for document in documents)
    assert {document[1:2] for document in documents} == {b"a", b"b"}
    assert 0.9 * tokens.tokens / 20 < len(held_out) <= tokens.tokens / 20
    kept = read(training).split(b"\n\n")[:-1]
    assert len(kept) + len(documents) == 600
    assert not set(kept) & set(documents)
    # a document is held out by its own text: neither the order of the sources nor others decide it
    _, turned = prepared(alone, *reversed(sources))
    assert set(read(turned.split()[1]).split(b"\n\n")[:-1]) == set(documents)


def test_the_last_source_is_not_all_that_is_held_out(alone: session.Session) -> None:
    _, tokens = prepared(alone, "builtin")
    held_out = np.fromfile(Path(tokens.path) / "held-out", dtype=np.int64).reshape(-1, 2)
    assert len(held_out) >= 16
    assert held_out[:, 0].min() < tokens.tokens / 4
    assert held_out[:, 1].max() > tokens.tokens * 3 / 4


def test_a_long_document_is_held_out_in_sections(alone: session.Session, tmp_path: Path) -> None:
    source = tmp_path / "book.txt"
    source.write_text("".join(f"line {number:06}\n" for number in range(50_000)))
    _, tokens = prepared(alone, source)
    training, held_out = tokens.split()
    assert 0.9 * tokens.tokens / 20 < len(held_out) <= tokens.tokens / 20
    assert len(training) + len(held_out) == tokens.tokens
    sections = np.fromfile(Path(tokens.path) / "held-out", dtype=np.int64).reshape(-1, 2)
    assert len(sections) >= 16
    assert (sections[:, 1] - sections[:, 0]).max() <= tokens.tokens // 20 // 16
    assert sorted(read(training) + read(held_out)) == sorted(source.read_bytes() + b"\n\n")


def test_each_token_knows_its_document(alone: session.Session, tmp_path: Path) -> None:
    _, tokens = prepared(alone, articles(tmp_path, "alpha", 300))
    for stream in tokens.split():
        places = np.arange(len(stream))
        numbers = stream.document(places)
        first = np.flatnonzero(np.diff(numbers, prepend=-1))
        assert set(stream[first].tolist()) == {ord("<")}
        assert len(first) == read(stream).count(b"<")


def test_documents_begin_as_the_tokenizer_says(alone: session.Session, tmp_path: Path) -> None:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    plain, _ = prepared(alone, "builtin", name="bpe:300")
    backend = plain.backend_tokenizer
    backend.add_special_tokens(["<s>"])
    begin = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    folder = tmp_path / "tokenizer"
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=tokenizer.END_OF_TEXT
    ).save_pretrained(folder)
    source = tmp_path / "two.jsonl"
    source.write_text('{"text": "one"}\n{"text": "two"}\n')
    own, tokens = prepared(alone, source, name=str(folder))
    expected = [*own("one").input_ids, own.eos_token_id, *own("two").input_ids, own.eos_token_id]
    assert expected[0] == begin
    assert written(tokens).tolist() == expected
    assert tokens.bytes == len("onetwo")


def test_unigram_entropy_is_that_of_the_tokens(alone: session.Session, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("ab" * 99 + "\n\n")
    _, tokens = prepared(alone, source)
    shares = [99 / 202, 99 / 202, 4 / 202]  # with the two line ends after each document
    assert tokens.unigram_entropy == pytest.approx(-sum(p * math.log(p) for p in shares))


def test_documents_of_a_folder_are_told_apart(alone: session.Session, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.md").write_text("second")
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in ("one", "two")))
    (folder / "deep/c.txt").write_text("third")
    (folder / "ignored.bin").write_text("nothing")
    _, tokens = prepared(alone, folder)
    assert bytes(written(tokens)) == b"one\n\ntwo\n\nsecond\n\nthird\n\n"


def test_a_hugging_face_data_set(
    alone: session.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="the train extra is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"text": "one", "other": "three"}, {"text": "two", "other": "four"}]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for source, expected in (
        (f"hf:{folder}", b"one\n\ntwo\n\n"),
        (f"hf:{folder}:train:other", b"three\n\nfour\n\n"),
    ):
        assert bytes(written(prepared(alone, source)[1])) == expected
    with pytest.raises(session.Stop, match="no column 'missing' among text, other"):
        prepared(alone, f"hf:{folder}:train:missing")


def test_tokens_are_made_once(alone: session.Session, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("text " * 50)
    _, first = prepared(alone, source)
    written_at = (Path(first.path) / "00000.bin").stat().st_mtime_ns
    os.utime(Path(first.path) / "corpus.json", (1, 1))
    _, second = prepared(alone, source)
    assert second == first
    assert second.path == first.path
    assert (Path(second.path) / "00000.bin").stat().st_mtime_ns == written_at
    assert (Path(second.path) / "corpus.json").stat().st_mtime > 1  # the last use
    source.write_text("other " * 50)
    _, third = prepared(alone, source)
    assert third.path != first.path
    names = sorted(path.name for path in Path(first.path).iterdir() if path.suffix != readers.SUFFIX)
    assert names == ["00000.bin", "00000.idx", "corpus.json", "held-out"]


def test_a_bpe_is_trained_once_and_loads_again(alone: session.Session, tmp_path: Path) -> None:
    trained, tokens = prepared(alone, "builtin", name="bpe:400")
    assert len(trained) == 400
    assert tokens.dtype == "uint16"
    assert tokens.tokens < 0.7 * tokens.bytes
    ids = written(tokens)
    assert int(ids.max()) == 399
    from pydoc_data.topics import topics

    documents = trained.decode(ids[:20000].tolist()).split(tokenizer.END_OF_TEXT)
    assert documents[0] == next(iter(topics.values()))
    again, _ = prepared(alone, "builtin", name="bpe:400")
    folder = tokenizer.make(
        alone, str(alone.run_dir / "tokenizer"), "byte-gpt", vocabulary=400, texts=lambda: iter(())
    )
    assert tokenizer.fingerprint(again) == tokenizer.fingerprint(trained) == tokenizer.fingerprint(folder)


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        ("/no/such.txt", "bytes", "--data /no/such.txt: no such file or folder"),
        ("{empty}", "bytes", "no .txt, .md, .jsonl, .jsonl.gz, .jsonl.zst, .parquet file in this folder"),
        ("{bad}", "bytes", 'bad.jsonl:2: not a JSON object with a "text"'),
        ("builtin", "bpe:256", "bpe:SIZE needs a SIZE above 256"),
        ("builtin", "bpe:600", "tokenizer bpe:600 has 600 tokens, and model byte-gpt a vocabulary of 512"),
        ("builtin", "{empty}", "neither bytes, bpe:SIZE, a folder nor a hub name"),
    ],
)
def test_mistakes_are_told(
    data: str,
    name: str,
    message: str,
    alone: session.Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    empty, bad = tmp_path / "empty", tmp_path / "bad.jsonl"
    empty.mkdir()
    bad.write_text('{"text": "x"}\n{"txt": "x"}\n')
    with pytest.raises(session.Stop) as stop:
        prepared(alone, data.format(empty=empty, bad=bad), name=name.format(empty=empty, bad=bad))
    assert message in stop.value.message

"""Every rank sees its own samples, all of them once an epoch, in an order that only seed and position decide."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")
torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import engines, session, text, tokenizer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[session.Session]:
    """A session of one rank in this process."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield place(0, 1, tmp_path / "run")
    torch.distributed.destroy_process_group()


def place(rank: int, world_size: int, run_dir: Path = Path()) -> session.Session:
    return session.Session(rank, world_size, torch.device("cpu"), run_dir)


def options(*data: object, by: str = "bytes", **more: object) -> argparse.Namespace:
    return argparse.Namespace(data=[*map(str, data)], tokenizer=by, model="byte-gpt", data_cache=None, **more)


TOKENS = np.arange(1003, dtype=np.uint16)


def starts(samples: text.Samples, positions: range) -> list[int]:
    inputs, labels = samples.batch(np.arange(positions.start, positions.stop))
    assert (labels == inputs + 1).all()
    return [int(first) for first in inputs[:, 0]]


def test_an_epoch_is_every_sample_once() -> None:
    samples = text.Samples(TOKENS, 10, seed=0)
    assert samples.per_epoch == 100
    first, second = starts(samples, range(100)), starts(samples, range(100, 200))
    for epoch in (first, second):
        assert sorted(epoch) == list(range(min(epoch), min(epoch) + 1000, 10))
    assert [start - min(first) for start in first] != [start - min(second) for start in second]
    assert starts(samples, range(90, 110)) == first[90:] + second[:10]


def test_the_order_is_the_seeds() -> None:
    order = [starts(text.Samples(TOKENS, 10, seed), range(250)) for seed in (0, 0, 1)]
    assert order[0] == order[1]
    assert order[0] != order[2]
    # from anywhere, as after a restart
    assert starts(text.Samples(TOKENS, 10, 0), range(170, 180)) == order[0][170:180]


@pytest.mark.parametrize(("ranks", "micro", "accumulation"), [(1, 12, 1), (2, 3, 2), (4, 3, 1), (3, 1, 4)])
def test_a_step_has_the_same_samples_for_any_number_of_ranks(
    ranks: int, micro: int, accumulation: int
) -> None:
    samples = text.Samples(TOKENS, 10, seed=0)
    size = engines.BatchSize(micro, accumulation, 12)
    seen = [
        inputs[:, 0].tolist()
        for rank in range(ranks)
        for inputs, _ in samples.share(96, size, place(rank, ranks))
    ]
    assert all(len(batch) == micro for batch in seen)
    assert sorted(start for batch in seen for start in batch) == sorted(starts(samples, range(96, 108)))


def test_evaluation_is_shared_evenly() -> None:
    args = argparse.Namespace(seq_length=10, eval_batches=2)
    batches = [text.evaluation(TOKENS[:205], args, 3, place(rank, 2)) for rank in range(2)]
    assert [[len(inputs) for inputs, _ in one] for one in batches] == [[3, 3], [3, 3]]
    first = [start for one in batches for inputs, _ in one for start in inputs[:, 0].tolist()]
    assert sorted(first) == list(range(0, 120, 10))
    with pytest.raises(session.Stop, match="too few for 4 ranks to evaluate 10 each"):
        text.evaluation(TOKENS[:40], args, 3, place(0, 4))


def test_bytes_are_their_own_tokens(alone: session.Session, tmp_path: Path) -> None:
    source = tmp_path / "a b,$x.txt"
    source.write_bytes("naïve\r\n".encode() * 40)
    by, corpus = text.tokenized(alone, options(source), 256)
    training, held_out = corpus.split()
    assert bytes(np.concatenate([training, held_out])) == source.read_bytes() + b"\n\n"
    assert len(held_out) == corpus.tokens // 20
    assert corpus.bytes == corpus.tokens
    assert by.decode(list("né\n".encode())) == "né\n"
    assert by("né\n").input_ids == list("né\n".encode())


def test_unigram_entropy_is_that_of_the_tokens(alone: session.Session, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("ab" * 99 + "\n\n")
    _, corpus = text.tokenized(alone, options(source), 256)
    shares = [99 / 202, 99 / 202, 4 / 202]  # with the two line ends after each document
    assert corpus.unigram_entropy == pytest.approx(-sum(p * math.log(p) for p in shares))


def test_documents_of_a_folder_are_told_apart(alone: session.Session, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.md").write_text("second")
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in ("one", "two")))
    (folder / "deep/c.txt").write_text("third")
    (folder / "ignored.bin").write_text("nothing")
    _, corpus = text.tokenized(alone, options(folder), 256)
    expected = b"one\n\ntwo\n\nsecond\n\nthird\n\n"
    assert bytes(np.concatenate(corpus.split())) == expected


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
        _, corpus = text.tokenized(alone, options(source), 256)
        assert bytes(np.concatenate(corpus.split())) == expected
    with pytest.raises(session.Stop, match="no column 'missing' among text, other"):
        text.tokenized(alone, options(f"hf:{folder}:train:missing"), 256)


def test_tokens_are_made_once(alone: session.Session, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("text " * 50)
    _, first = text.tokenized(alone, options(source), 256)
    changed = Path(first.path).stat().st_mtime_ns
    _, second = text.tokenized(alone, options(source), 256)
    assert second == first
    assert Path(second.path).stat().st_mtime_ns == changed
    source.write_text("other " * 50)
    _, third = text.tokenized(alone, options(source), 256)
    assert third.path != first.path


def test_a_bpe_is_trained_once_and_loads_again(alone: session.Session, tmp_path: Path) -> None:
    by, corpus = text.tokenized(alone, options("builtin", by="bpe:400"), 400)
    assert len(by) == 400
    assert corpus.dtype == "uint16"
    assert corpus.tokens < 0.7 * corpus.bytes
    ids = np.concatenate(corpus.split())
    assert int(ids.max()) == 399
    from pydoc_data.topics import topics

    documents = by.decode(ids[:20000].tolist()).split(tokenizer.END_OF_TEXT)
    assert documents[0] == next(iter(topics.values()))
    again, _ = text.tokenized(alone, options("builtin", by="bpe:400"), 400)
    folder = tokenizer.make(alone, str(alone.run_dir / "tokenizer"), "byte-gpt", 400, lambda: iter(()))
    assert tokenizer.fingerprint(again) == tokenizer.fingerprint(by) == tokenizer.fingerprint(folder)


@pytest.mark.parametrize(
    ("data", "by", "message"),
    [
        ("/no/such.txt", "bytes", "--data /no/such.txt: no such file or folder"),
        ("{empty}", "bytes", "no .txt, .md, .jsonl file in this folder"),
        ("{bad}", "bytes", 'bad.jsonl:2: not a JSON object with a "text"'),
        ("builtin", "bpe:256", "bpe:SIZE needs a SIZE above 256"),
        ("builtin", "bpe:300", "tokenizer bpe:300 has 300 tokens, and model byte-gpt a vocabulary of 256"),
        ("builtin", "{empty}", "neither bytes, bpe:SIZE, a folder nor a hub name"),
    ],
)
def test_mistakes_are_told(
    data: str, by: str, message: str, alone: session.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    empty, bad = tmp_path / "empty", tmp_path / "bad.jsonl"
    empty.mkdir()
    bad.write_text('{"text": "x"}\n{"txt": "x"}\n')
    with pytest.raises(session.Stop) as stop:
        text.tokenized(
            alone, options(data.format(empty=empty, bad=bad), by=by.format(empty=empty, bad=bad)), 256
        )
    assert message in stop.value.message

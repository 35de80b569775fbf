"""Every rank sees its own samples, all of them once an epoch, in an order that only seed and position decide."""

from __future__ import annotations

import argparse
import threading
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")
torch = pytest.importorskip("torch", reason="the train extra is not installed")

from workloads import corpus, engines, samples, session  # noqa: E402

from tests.docker.workloads.conftest import place  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.torch

TOKENS = np.arange(1003, dtype=np.uint16)


def starts(reader: samples.Samples, positions: range) -> list[int]:
    inputs, labels = reader.batch(np.arange(positions.start, positions.stop))[:2]
    assert (labels == inputs + 1).all()
    return [int(first) for first in inputs[:, 0]]


def test_an_epoch_is_every_sample_once() -> None:
    reader = samples.Samples(TOKENS, 10, seed=0)
    assert reader.per_epoch == 100
    first, second = starts(reader, range(100)), starts(reader, range(100, 200))
    for epoch in (first, second):
        assert sorted(epoch) == list(range(min(epoch), min(epoch) + 1000, 10))
    assert [start - min(first) for start in first] != [start - min(second) for start in second]
    assert starts(reader, range(90, 110)) == first[90:] + second[:10]


def test_the_order_is_the_seeds() -> None:
    order = [starts(samples.Samples(TOKENS, 10, seed), range(250)) for seed in (0, 0, 1)]
    assert order[0] == order[1]
    assert order[0] != order[2]
    # from anywhere, as after a restart
    assert starts(samples.Samples(TOKENS, 10, 0), range(170, 180)) == order[0][170:180]


def test_a_rank_holds_no_list_of_all_samples() -> None:
    class Endless:
        def __len__(self) -> int:
            return 10**15

        def __getitem__(self, places: Any) -> Any:
            return places % 1000

    batch = samples.Samples(Endless(), 1000, seed=0).batch(np.arange(10**12 - 3, 10**12 + 3))
    assert batch.inputs.shape == (6, 1000)


@pytest.mark.parametrize(("ranks", "micro", "accumulation"), [(1, 12, 1), (2, 3, 2), (4, 3, 1), (3, 1, 4)])
def test_a_step_has_the_same_samples_for_any_number_of_ranks(
    ranks: int, micro: int, accumulation: int
) -> None:
    reader = samples.Samples(TOKENS, 10, seed=0)
    size = engines.BatchSize(micro, accumulation, 12)
    seen = [
        batch.inputs[:, 0].tolist()
        for rank in range(ranks)
        for batch in reader.share(96, size, place(rank, ranks))
    ]
    assert all(len(batch) == micro for batch in seen)
    assert sorted(start for batch in seen for start in batch) == sorted(starts(reader, range(96, 108)))


@pytest.mark.parametrize(("ranks", "micro"), [(1, 2), (1, 8), (2, 3), (4, 1), (4, 16)])
def test_every_cut_evaluates_the_same_windows(ranks: int, micro: int) -> None:
    shares = [
        samples.evaluation(TOKENS, 13, 10, micro=micro, session=place(rank, ranks)) for rank in range(ranks)
    ]
    assert len({len(share) for share in shares}) == 1  # ZeRO-3 and Ulysses need all ranks, and full batches
    labels = []
    for batch in (batch for share in shares for batch in share):
        assert batch.inputs.shape == (micro, 10)
        assert batch.inputs.min() >= 0
        labels += batch.labels[batch.labels != samples.IGNORED].tolist()
    assert sorted(labels) == list(range(1, 131))


def test_as_many_windows_are_evaluated_as_there_are() -> None:
    def count(tokens: int) -> int:
        return samples.held_out_windows(tokens, argparse.Namespace(seq_length=10, eval_samples=4))

    assert [count(tokens) for tokens in (11, 31, 40, 41, 900)] == [1, 3, 3, 4, 4]
    with pytest.raises(session.Stop, match="has 10 tokens, too few to evaluate 10 at once"):
        count(10)


def test_batches_follow_each_other_step_by_step() -> None:
    reader, size = samples.Samples(TOKENS, 10, seed=0), engines.BatchSize(3, 2, 12)
    session = place(1, 2)
    expected = [b for step in range(3) for b in reader.share(24 + step * 12, size, session)]
    onward = islice(reader.onward(24, size, session), 6)
    for ours, theirs in zip(samples.ahead(onward, torch.device("cpu")), expected, strict=True):
        assert (ours.inputs == theirs.inputs).all()
        assert (ours.labels == theirs.labels).all()


def test_the_next_batch_is_prepared_while_one_is_in_use() -> None:
    second = threading.Event()

    def read() -> Iterator[samples.Batch]:
        yield samples.Batch(torch.zeros(1), torch.zeros(1))
        second.set()
        yield samples.Batch(torch.ones(1), torch.ones(1))

    batches = samples.ahead(read(), torch.device("cpu"))
    next(batches)
    assert second.wait(60)  # nobody has asked for it
    assert next(batches).inputs.item() == 1


def test_what_goes_wrong_while_reading_is_raised() -> None:
    def read() -> Iterator[samples.Batch]:
        yield samples.Batch(torch.zeros(1), torch.zeros(1))
        raise OSError("the disk is gone")

    batches = samples.ahead(read(), torch.device("cpu"))
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_a_mixture_has_its_shares_on_any_number_of_ranks() -> None:
    parts = [samples.Samples(TOKENS, 10, seed=0), samples.Samples(TOKENS[:203] + 5_000, 10, seed=0)]
    mixed = samples.Mixture(parts, [0.75, 0.25])
    whole = mixed.batch(np.arange(10_000)).inputs
    assert int((whole[:, 0] >= 5_000).sum()) == 2_500
    # each source in its own order, with its own epochs
    assert whole[whole[:, 0] < 5_000].equal(parts[0].batch(np.arange(7_500)).inputs)
    assert whole[whole[:, 0] >= 5_000].equal(parts[1].batch(np.arange(2_500)).inputs)
    assert mixed.epochs(10_000) == {"epoch": 125.0, "source_epochs": [75.0, 125.0]}
    for ranks, micro in ((1, 12), (2, 6), (4, 3)):
        size = engines.BatchSize(micro, 1, 12)
        seen = [next(mixed.share(96, size, place(rank, ranks))).inputs for rank in range(ranks)]
        assert torch.cat(seen).equal(whole[96:108])


def test_a_mixture_is_of_the_sources_shards_without_what_is_held_out(
    alone: session.Session, tmp_path: Path
) -> None:
    words = []
    for letter, weight in (("a", 0.25), ("b", 0.75)):
        lines = [f'{{"text": "{letter * (40 + number % 7)}{number}"}}' for number in range(400)]
        (tmp_path / f"{letter}.jsonl").write_text("\n".join(lines))
        words.append(f'{{"path":"{tmp_path / letter}.jsonl","weight":{weight}}}')
    options = {"tokenizer": "bytes", "model": "byte-gpt", "data_cache": None, "data_wait": 60.0}
    args = argparse.Namespace(data=words, seq_length=16, seed=0, document_masks=True, **options)
    _, tokens = corpus.tokenized(alone, args, 256)
    assert tokens.source_shards == [1, 1]
    training, held_out = tokens.split()
    assert sum(map(len, tokens.training())) == len(training) == tokens.tokens - len(held_out)
    mixed = samples.of(tokens, args)
    assert isinstance(mixed, samples.Mixture)
    batch = mixed.batch(np.arange(400))
    letters = [{chr(token) for token in row if chr(token) in "ab"} for row in batch.inputs.tolist()]
    assert sum(found == {"b"} for found in letters) == 300
    assert sum(found == {"a"} for found in letters) == 100
    assert batch.positions is not None
    assert mixed.mixed == ":1,3"
    # the tokens are the same whatever the weights
    plain = argparse.Namespace(**{**vars(args), "data": [f"{tmp_path / letter}.jsonl" for letter in "ab"]})
    assert corpus.tokenized(alone, plain, 256)[1].path == tokens.path
    assert not samples.of(tokens, plain).mixed


def test_a_source_too_short_for_a_sample_is_named(alone: session.Session, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 500)
    (tmp_path / "b.txt").write_text("b")
    words = [f'{{"path":"{tmp_path / name}.txt","weight":1}}' for name in "ab"]
    options = {"tokenizer": "bytes", "model": "byte-gpt", "data_cache": None, "data_wait": 60.0}
    args = argparse.Namespace(data=words, seq_length=16, seed=0, document_masks=False, **options)
    _, tokens = corpus.tokenized(alone, args, 256)
    with pytest.raises(session.Stop, match=r"b.txt: too short for one sample of 16 tokens"):
        samples.of(tokens, args)

"""Held-out documents are chosen by the hash of their text alone, however the text is divided into shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")

from workloads import held_out, shuffle  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

RANDOM = np.random.default_rng(0)
LENGTHS = RANDOM.integers(1, 300, 5_000)
KEYS = RANDOM.integers(-(2**63), 2**63 - 1, 5_000)


def cut(lengths: Any, keys: Any, shards: int) -> Callable[[], Any]:
    return lambda: zip(np.array_split(lengths, shards), np.array_split(keys, shards), strict=True)


def by_sorting(lengths: Any, keys: Any) -> list[list[int]]:
    """The same by its definition, for documents that are not cut: in the order of hashes, as many as fit."""
    ends = lengths.cumsum()
    spans = np.stack([ends - lengths, ends], axis=1)
    order = np.argsort(
        shuffle.mix(keys.view(np.uint64) ^ shuffle.mix(np.zeros(1, dtype=np.uint64))), kind="stable"
    )
    chosen: list[list[int]] = spans[order][lengths[order].cumsum() <= ends[-1] // held_out.SHARE].tolist()
    return chosen


@pytest.mark.parametrize("shards", [1, 2, 7, 5_000])
@pytest.mark.heavy
def test_shards_do_not_matter(shards: int) -> None:
    chosen = held_out.choose(cut(LENGTHS, KEYS, shards), int(LENGTHS.sum())).tolist()
    assert chosen == by_sorting(LENGTHS, KEYS)
    assert len(chosen) > 200


def test_the_order_of_documents_does_not_matter() -> None:
    order = RANDOM.permutation(len(KEYS))
    first = held_out.choose(cut(LENGTHS, KEYS, 3), int(LENGTHS.sum()))
    other = held_out.choose(cut(LENGTHS[order], KEYS[order], 4), int(LENGTHS.sum()))
    numbers = [
        set(keys[(lengths.cumsum() - lengths).searchsorted(chosen[:, 0])].tolist())
        for lengths, keys, chosen in ((LENGTHS, KEYS, first), (LENGTHS[order], KEYS[order], other))
    ]
    assert numbers[0] == numbers[1]


def test_a_short_text_has_nothing_held_out() -> None:
    assert held_out.choose(cut(np.array([19]), np.array([1]), 1), 19).shape == (0, 2)


def test_no_more_than_enough_of_a_huge_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST", 5_000)
    chosen = held_out.choose(cut(LENGTHS, KEYS, 3), int(LENGTHS.sum()))
    assert 4_000 < (chosen[:, 1] - chosen[:, 0]).sum() <= 5_000

"""A mixture has exactly the shares of its weights, at every position and on any number of ranks."""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")

from workloads import mixture  # noqa: E402

WEIGHTS = [[0.7, 0.3], [1, 1, 1], [0.5, 0.25, 0.125, 0.125], [3], [0.9999, 0.0001], [1e-9, 1.0], [0.1] * 10]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_the_shares_of_ten_thousand_samples(weights: list[float]) -> None:
    source, _ = mixture.Schedule(weights).locate(np.arange(10_000))
    counts = np.bincount(source, minlength=len(weights))
    shares = np.array(weights) / sum(weights)
    assert np.abs(counts - 10_000 * shares).max() <= 1
    # and of any beginning of them
    taken = np.cumsum(source[:, None] == np.arange(len(weights)), axis=0)
    assert np.abs(taken - np.arange(1, 10_001)[:, None] * shares).max() < len(weights)


def test_seven_of_ten_are_exactly_that() -> None:
    schedule = mixture.Schedule([0.7, 0.3])
    assert schedule.quotas == [7, 3]
    for first in (0, 10, 12_340):
        source, _ = schedule.locate(np.arange(first, first + 10))
        assert np.bincount(source).tolist() == [7, 3]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_each_sample_of_a_source_comes_once_and_in_order(weights: list[float]) -> None:
    schedule = mixture.Schedule(weights)
    source, index = schedule.locate(np.arange(5_000))
    for number in range(len(weights)):
        assert index[source == number].tolist() == list(range((source == number).sum()))
    assert schedule.taken(4_321) == np.bincount(source[:4_321], minlength=len(weights)).tolist()


def test_a_position_is_computed_by_itself() -> None:
    schedule = mixture.Schedule([0.61, 0.39])
    source, index = schedule.locate(np.arange(3_000))
    some = np.array([2_999, 0, 17])
    assert (schedule.locate(some)[0] == source[some]).all()
    assert (schedule.locate(some)[1] == index[some]).all()
    assert schedule.locate(np.array([10**15]))[1][0] > 10**14


def test_weights_are_ratios_as_they_are_written() -> None:
    assert mixture.quotas([0.1, 0.2]) == [1, 2]
    assert mixture.quotas([30, 70]) == [3, 7]
    assert sum(mixture.quotas([1.0, 2**0.5])) == mixture.LONGEST

"""A shuffle is a bijection, another one for each seed, and looks random."""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy", reason="the train extra is not installed")

from workloads import shuffle  # noqa: E402


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 255, 1000, 65537])
def test_each_thing_comes_once(count: int) -> None:
    order = shuffle.permuted(np.arange(count), count, seed=7)
    assert sorted(order.tolist()) == list(range(count))


def test_a_place_is_computed_by_itself() -> None:
    order = shuffle.permuted(np.arange(5000), 5000, seed=3)
    some = np.array([[4999, 0], [17, 17]])
    assert (shuffle.permuted(some, 5000, seed=3) == order[some]).all()


def test_the_largest_counts_need_no_memory() -> None:
    count = 10**12
    some = shuffle.permuted(np.arange(1000), count, seed=0)
    assert len(set(some.tolist())) == 1000
    assert 0 <= some.min() < some.max() < count
    assert 0.4 < some.mean() / count < 0.6


def test_seeds_give_orders_that_have_nothing_in_common() -> None:
    orders = [shuffle.permuted(np.arange(4096), 4096, seed) for seed in range(8)]
    for number, one in enumerate(orders):
        for other in [np.arange(4096), *orders[:number]]:
            assert (one == other).sum() < 12  # 1 is expected
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.1  # standard error 0.016
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.1

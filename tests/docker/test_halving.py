"""The decisions of a tuning run: each trial once, the best wins, and nothing that cannot win is tried."""

from __future__ import annotations

import importlib
import itertools
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

halving = importlib.import_module("halving")

Truth = tuple[
    str, int, float, str, bool
]  # group, micro, seconds of a step, result, whether the plan has a bound
TRUTHS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(1, 8),
        st.floats(0.01, 10.0, allow_subnormal=False),
        st.sampled_from([halving.DONE, halving.DONE, halving.DONE, halving.FAILED, halving.HUNG]),
        st.booleans(),
    ),
    min_size=1,
    max_size=30,
)


def trials(truths: list[Truth]) -> list[Any]:
    return [
        halving.Trial(group, micro, seconds * 0.7 if bound else None)
        for group, micro, seconds, _, bound in truths
    ]


def played(truths: list[Truth], first: int, limit: int | None = None) -> list[Any]:
    """The results in order, of a machine without noise; at most `limit` of them."""
    results: list[Any] = []
    while chosen := halving.following(trials(truths), first, results):
        if len(results) == limit:
            break
        _, _, seconds, result, _ = truths[chosen.trial]
        measured = seconds if result == halving.DONE else None
        results.append(halving.Result(chosen.trial, chosen.steps, result, measured))
    return results


@given(TRUTHS, st.integers(3, 20))
def test_the_best_wins(truths: list[Truth], first: int) -> None:
    results = played(truths, first)
    times = [seconds for *_, seconds, result, _ in truths if result == halving.DONE]
    best = halving.ranked(results)
    assert bool(best) == bool(times)
    assert not times or truths[best[0].trial][2] == min(times)


@given(TRUTHS, st.integers(3, 20))
def test_each_trial_is_started_once_in_a_round_and_a_quarter_goes_on(truths: list[Truth], first: int) -> None:
    results = played(truths, first)
    started = [(result.trial, result.steps) for result in results]
    assert len(set(started)) == len(started)
    rounds = sorted({result.steps for result in results})
    assert rounds == [first * 4**number for number in range(len(rounds))]
    for before, after in itertools.pairwise(rounds):
        measured = [r for r in results if r.steps == before and r.measured]
        assert len([r for r in results if r.steps == after]) <= math.ceil(len(measured) / 4)


@given(TRUTHS, st.integers(0, 30))
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(truths: list[Truth], cut: int) -> None:
    whole, part = played(truths, 5), played(truths, 5, cut)
    assert whole[: len(part)] == part


def test_what_needs_more_than_one_that_ran_out_of_memory_is_not_tried() -> None:
    own = [halving.Trial("a", 2), halving.Trial("a", 4), halving.Trial("a", 1), halving.Trial("b", 4)]
    results = [halving.Result(0, 5, halving.MEMORY)]
    assert halving.hopeless(own, 1, results) == "micro batch 2 of the same ran out of memory"
    assert [halving.hopeless(own, trial, results) for trial in (0, 2, 3)] == ["", "", ""]
    assert halving.following(own, 5, results) == halving.Next(2, 0, 5)


def test_a_bound_above_what_was_measured_is_not_tried() -> None:
    own = [halving.Trial("a", 1, 0.5), halving.Trial("b", 1, 2.0), halving.Trial("c", 1, 0.9)]
    results = [halving.Result(0, 5, halving.DONE, 1.0)]
    assert halving.hopeless(own, 1, results) == "at best 2 s a step, and 1 s was measured"
    assert halving.following(own, 5, results) == halving.Next(2, 0, 5)


def test_what_does_the_same_with_more_work_is_tried_only_where_less_does_not_work() -> None:
    own = [halving.Trial("a", 1), halving.Trial("a, recomputation", 1, less=(0,))]
    worked = [halving.Result(0, 5, halving.DONE, 1.0)]
    assert halving.hopeless(own, 1, worked) == "a, micro 1 works and does less"
    assert halving.following(own, 5, worked) is None
    full = [halving.Result(0, 5, halving.MEMORY)]
    assert halving.following(own, 5, full) == halving.Next(1, 0, 5)
    already = [halving.Result(1, 5, halving.DONE, 0.5), *worked]  # what was tried counts as it was measured
    assert halving.hopeless(own, 1, already) == ""
    assert halving.ranked(already)[0].trial == 1


def test_the_first_steps_are_not_counted() -> None:
    assert halving.seconds([9.0, 8.0, 1.0, 3.0, 2.0]) == 2.0
    assert halving.seconds([9.0, 8.0]) is None

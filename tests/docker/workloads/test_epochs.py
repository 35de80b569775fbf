"""Epochs become steps: each example is learned so often, and the schedule ends with the last step."""

from __future__ import annotations

import argparse

import pytest
from workloads import engines, epochs


def args(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"epochs": None, "max_steps": None, **given})


@pytest.mark.parametrize(
    ("given", "examples", "batch", "steps"),
    [
        ({}, 40, 8, epochs.STEPS),
        ({"max_steps": 7}, 40, 8, 7),
        ({"epochs": 3.0}, 40, 8, 15),
        ({"epochs": 3.0}, 41, 8, 16),
        ({"epochs": 0.5}, 40, 8, 3),
        ({"epochs": 1.0}, 3, 8, 1),
        ({"epochs": 1e-9}, 40, 8, 1),
        ({"epochs": 0.1}, 30, 1, 3),  # 0.1 * 30 is above 3 in floating point
    ],
)
def test_steps_of_a_run(given: dict[str, object], examples: int, batch: int, steps: int) -> None:
    assert epochs.steps(args(**given), examples, batch) == steps


def test_both_are_refused() -> None:
    assert epochs.mistake(args(epochs=1.5, max_steps=3)) == (
        "--epochs 1.5 and --max-steps 3 are both given: leave one out"
    )
    assert (
        epochs.mistake(args(epochs=1.0)) == epochs.mistake(args(max_steps=3)) == epochs.mistake(args()) == ""
    )


def test_the_rate_is_lowest_at_the_last_step_of_the_epochs() -> None:
    given = args(epochs=2.0, schedule="linear", warmup_steps=2, min_lr=0.1, decay_share=0.1)
    given.max_steps = epochs.steps(given, 25, 5)
    rates = [engines.learning_rate(step, 1.0, given) for step in range(10)]
    assert rates.index(max(rates)) == 1
    assert rates[-1] == pytest.approx(0.1)

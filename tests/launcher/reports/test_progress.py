"""What `--wait` says of a run at its end: what was learnt, in words that fit the figure."""

from __future__ import annotations

import pytest

from launcher.reports import progress, tables


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"loss": 4.0}, {"loss": 3.0}], ("loss", "4.0000 at step 1 → 3.0000 (last 1 logged), 25% lower")),
        ([{"loss": 3.0}, {"loss": 4.0}], ("loss", "3.0000 at step 1 → 4.0000 (last 1 logged)")),
        ([{"loss": 2e-9}, {"loss": -4e-9}], ("loss", "0.0000 at step 1 → -0.0000 (last 1 logged)")),
        (
            [{"loss": 1e-9, "reward": -0.5}, {"loss": -1e-9, "reward": 1.5}],
            ("reward", "-0.5000 at step 1 → 1.5000 (last 1 logged)"),
        ),
    ],
)
def test_what_was_learnt(steps: list[dict[str, float]], words: tuple[str, str]) -> None:
    assert progress._trend([{"step": n + 1, **step} for n, step in enumerate(steps)]) == words


def test_a_policy_tells_its_reward() -> None:
    record = {"step": 3, "max_steps": 9, "loss": 1e-9, "tokens_per_second": 1234.5}
    assert tables.progress_line(record) == "step 3/9, loss 0.0000, 1,234 tokens/s"
    assert tables.progress_line({**record, "reward": 1.25}) == "step 3/9, reward 1.2500, 1,234 tokens/s"

"""What failures cost follows from how often hosts failed in a published run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.sizing import failures

HOSTS = st.integers(1, 4096)


def test_the_published_run() -> None:
    # 16,384 GPUs: "one failure every three hours"; losing half of what lies between checkpoints a minute apart
    between = 54 * 86_400 / 419
    assert between == pytest.approx(3.1 * 3600, rel=0.01)
    assert failures.lost(16_384 // 8, 60) == pytest.approx(30 / between)


@given(HOSTS, st.floats(0.001, 0.5))
def test_the_longest_time_loses_just_the_share(hosts: int, share: float) -> None:
    assert failures.lost(hosts, failures.longest(hosts, share)) == pytest.approx(share)
    assert failures.longest(2 * hosts, share) == pytest.approx(failures.longest(hosts, share) / 2)

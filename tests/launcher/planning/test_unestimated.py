"""Each feature of DeepSpeed that sizing does not count is named where a job turns it on (more: test_learning.py)."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from launcher.planning import fit, unestimated
from tests import samples


def estimate(config: dict[str, Any]) -> fit.Estimate:
    """The sample's estimate, as if DeepSpeed's configuration were this."""
    found = samples.decided().estimate
    assert found is not None
    return found._replace(evaluation=found.evaluation._replace(config=config))


@pytest.mark.parametrize("path", [path for path, _ in unestimated.UNCOUNTED], ids=".".join)
@pytest.mark.parametrize(
    ("value", "named"), [(True, 1), ({"enabled": True}, 1), (2, 1), (False, 0), (None, 0), (1, 0)]
)
def test_what_is_not_counted_is_named_where_it_is_on(
    path: tuple[str, ...], value: object, named: int
) -> None:
    config = functools.reduce(lambda inner, key: {key: inner}, reversed(path), value)
    assert isinstance(config, dict)
    notes = list(unestimated.uncounted(estimate(config)))
    assert len(notes) == named
    assert all(note.startswith(f"deepspeed.{'.'.join(path)} is not in the estimate") for note in notes)


def test_an_estimate_that_leaves_nothing_out_has_no_notes() -> None:
    assert list(unestimated.uncounted(None)) == []
    assert list(unestimated.uncounted(estimate({}))) == []
    assert unestimated.partial(None) == unestimated.partial(estimate({})) == ""

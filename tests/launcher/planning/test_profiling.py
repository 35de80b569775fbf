"""`profile:` of a job becomes DeepSpeed's keys, whatever the preset, and the job's own keys are over them."""

from __future__ import annotations

from typing import Any

import pytest

from tests import samples


def config(**fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = samples.decided(fields).config
    return {key: found[key] for key in ("flops_profiler", "wall_clock_breakdown") if key in found}


@pytest.mark.parametrize("preset", ["auto", "zero1", "zero3", {"preset": "zero2", "gradient_clipping": 0.5}])
def test_both_with_any_preset(preset: Any) -> None:
    """The step that a person counts is one more than DeepSpeed's."""
    assert config(deepspeed=preset, profile={"flops": 5, "breakdown": True}) == {
        "flops_profiler": {"enabled": True, "profile_step": 4},
        "wall_clock_breakdown": True,
    }


def test_nothing_without() -> None:
    assert config() == {}
    assert config(profile={"breakdown": False}) == {}


def test_keys_of_the_job_win() -> None:
    finer = {"preset": "zero1", "flops_profiler": {"detailed": False, "profile_step": 9}}
    assert config(deepspeed=finer, profile={"flops": 5}) == {
        "flops_profiler": {"enabled": True, "profile_step": 9, "detailed": False}
    }

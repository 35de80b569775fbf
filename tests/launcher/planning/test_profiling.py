"""`profile:` of a job becomes DeepSpeed's keys, whatever the preset, below the job's own; and nsys around its ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from launcher.planning import on_this_machine, profiling
from launcher.rendering import command
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path


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


GPUS: dict[str, Any] = {"gpu": "h100-80gb", "slots": 2}


@pytest.mark.parametrize("runtime", ["none", "kubernetes"])
def test_ranks_are_started_under_nsys_where_that_is_wanted(runtime: str) -> None:
    """DeepSpeed's configuration has no part in it."""
    plan = samples.decided({"profile": {"nsys": True}}, **GPUS)
    assert "--nsys" in command.options(plan, runtime)
    assert plan.config == samples.decided(**GPUS).config
    assert "--nsys" not in command.options(samples.decided(**GPUS), runtime)


@pytest.mark.parametrize(
    ("fields", "cluster", "why"),
    [
        ({}, {}, "ranks on CPUs open no range"),
        (
            {"command": ["torchrun", "a.py"], "processes": "host"},
            GPUS,
            "the program starts the ranks itself",
        ),
        ({"workload": "prepare"}, GPUS, "'prepare' does no optimizer steps"),
    ],
)
def test_where_nsys_records_nothing(fields: dict[str, Any], cluster: dict[str, Any], why: str) -> None:
    job = samples.job(profile={"nsys": True}, **fields)
    (problem,) = profiling.problems(job, samples.cluster(**cluster))
    assert why in problem.message


def test_on_this_machine_nsys_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = samples.decided({"profile": {"nsys": True}}, **GPUS)
    (problem,) = on_this_machine.problems(plan, "local")
    assert problem.message.startswith("profile.nsys: there is no nsys on PATH (")
    assert list(on_this_machine.problems(plan, "slurm")) == []
    (tmp_path / "nsys").touch(mode=0o755)
    assert list(on_this_machine.problems(plan, "local")) == []

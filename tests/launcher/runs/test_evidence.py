"""What runs have told is equal, or the first step that differs is named with both values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.runs import evidence
from launcher.runs.evidence import Check, Evidence, Told

if TYPE_CHECKING:
    from pathlib import Path


def told(*lines: dict[str, Any], folder: Path) -> Evidence:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return evidence.read(folder)


def step(number: int, loss: float, samples: str = "a") -> dict[str, Any]:
    return {"step": number, "loss": loss, "samples": samples}


def state(number: int, digest: str, norm: float = 1.0) -> dict[str, Any]:
    norms = {"parameters_norm": norm, "exp_avg_norm": norm, "exp_avg_sq_norm": norm}
    return {"event": "state", "step": number, "parameters": digest, "optimizer": digest, **norms}


WHOLE = (step(1, 3.0), step(2, 2.0), state(2, "x"), step(3, 1.0), step(4, 0.5), state(4, "y"))


@pytest.fixture
def whole(tmp_path: Path) -> Evidence:
    return told(*WHOLE, folder=tmp_path / "whole")


def test_a_run_that_did_steps_again_is_equal_where_each_time_was(whole: Evidence, tmp_path: Path) -> None:
    other = told(*WHOLE[:4], state(2, "x"), *WHOLE[3:], folder=tmp_path / "other")
    assert evidence.compare(whole, other) == [
        Check("samples", 5),
        Check("losses", 5),
        Check("parameters", 3),
        Check("optimizer", 3),
    ]
    first_time = told(*WHOLE[:3], step(3, 1.5), *WHOLE[3:], folder=tmp_path / "other")
    assert evidence.compare(whole, first_time)[1] == Check("losses", 5, 3, (1.0, 1.5))


@pytest.mark.parametrize(
    ("lines", "check"),
    [
        ((step(1, 3.0), step(2, 2.0000000001)), Check("losses", 4, 2, (2.0, 2.0000000001))),
        ((step(1, 3.0), step(2, 2.0), step(4, 0.5)), Check("losses", 4, 3, (1.0, "nothing"))),
        ((step(1, 3.0, "b"),), Check("samples", 4, 1, ("a", "b"))),
        ((state(4, "z"),), Check("parameters", 1, 4, ("y", "z"))),
        ((step(1, 3.0),), Check("parameters", 0)),  # it never told any
    ],
)
def test_the_first_step_that_differs_is_named(
    lines: tuple[dict[str, Any], ...], check: Check, whole: Evidence, tmp_path: Path
) -> None:
    other = told(*lines, folder=tmp_path / "other")
    found = {one.what: one for one in evidence.compare(whole, other)}[check.what]
    assert found == check
    assert not found.holds


def test_another_number_of_ranks_is_compared_within_a_bound(whole: Evidence, tmp_path: Path) -> None:
    lines = (state(2, "other", 1.0001), step(3, 1.0001), step(4, 0.5), state(4, "other", 1.0))
    other = told(*lines, folder=tmp_path / "other")
    checks = {check.what: check for check in evidence.compare(whole, other, 1e-3, after=2)}
    assert [(name, check.steps, check.holds) for name, check in checks.items()] == [
        ("samples", 2, True),
        ("losses", 2, True),
        ("parameters", 2, True),
        ("optimizer", 4, True),
    ]
    assert checks["losses"].largest == pytest.approx(1e-4, rel=1e-3)
    tight = {check.what: check for check in evidence.compare(whole, other, 1e-5, after=2)}
    assert tight["losses"].first == 3
    assert tight["optimizer"].first == 2


@pytest.mark.parametrize(
    "line",
    [
        "step 12 loss 3.25",
        "[rank0] Step: 12/400, train loss = 3.25e0",
        "{'step': 12, 'lr': 0.1, 'loss': 3.25}",
        "iteration done | step=12 | lm loss: 3.25",
    ],
)
def test_losses_that_a_program_prints(line: str, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank-0.log").write_text("starting\n")
    (tmp_path / "logs" / "rank-1.log").write_text(f"--- attempt 0\n{line}\nstep 13\n")
    assert evidence.read(tmp_path) == Evidence([Told(12, 3.25)], [], {})
    assert evidence.read(tmp_path).last == 12

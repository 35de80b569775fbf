"""Real training by two CPU ranks: what DeepSpeed holds and sends, against the planner's formulas."""

from __future__ import annotations

import re
from typing import Any

import pytest

from launcher import ROOT
from launcher.sizing import traffic
from tests.docker.workloads.memory_cases import CASES, LARGE, peak, predicted, run, states, table

pytest.importorskip("deepspeed", reason="the train extra is not installed")

NAMES = [c["name"] for c in CASES]
BY_NAME = {c["name"]: c for c in CASES}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return run(tmp_path_factory.mktemp("measured"))


pytestmark = pytest.mark.deepspeed


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str, measured: dict[str, dict[str, Any]]) -> None:
    assert predicted(BY_NAME[name])[0].parameters == measured[name]["parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_states_at_rest(name: str, measured: dict[str, dict[str, Any]]) -> None:
    """Between steps there are the weights, the optimizer's state, and in stage 3 gradients and the bucket."""
    _, settings, _, found = predicted(BY_NAME[name])
    slot = found.moments["step"]
    expected = slot.parameters + slot.optimizer
    if settings.stage == 3:
        expected += slot.gradients + settings.weight_bytes * settings.reduce_bucket
    assert measured[name]["rest"] == pytest.approx(expected, rel=0.02)


# with accumulation more is alive between two micro batches
@pytest.mark.parametrize(
    "name", [c["name"] for c in CASES if c["deepspeed"]["gradient_accumulation_steps"] == 1]
)
def test_states_after_the_backward_pass(name: str, measured: dict[str, dict[str, Any]]) -> None:
    """With all gradients reduced, before the step: the paper's bytes, and stage 1's are those of stage 2."""
    assert measured[name]["after"] == pytest.approx(states(BY_NAME[name]), rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_peak(name: str, measured: dict[str, dict[str, Any]]) -> None:
    """The whole step's peak: at most 5% above what was measured, and 2% below."""
    assert 0.98 <= peak(BY_NAME[name]) / max(measured[name]["peaks"].values()) <= 1.05


@pytest.mark.parametrize("name", NAMES)
def test_volume(name: str, measured: dict[str, dict[str, Any]]) -> None:
    """The whole messages of each kind of collective in one step; stage 3 may gather an embedding once more."""
    model, settings, setup, _ = predicted(BY_NAME[name])
    expected = {"all_reduce": 0.0, "reduce": 0.0, "all_gather": 0.0, "reduce_scatter": 0.0}
    for collective in traffic.collectives(model, settings, setup):
        expected[collective.kind] += collective.message * collective.times
    sent = measured[name]["sent"]
    moved = {kind: sent.get(kind, 0) + sent.get(f"{kind}_into_tensor", 0) for kind in expected}
    moved["reduce_scatter"] += sent.get("reduce_scatter_tensor", 0)
    whole = settings.weight_bytes * model.parameters
    for kind, size in expected.items():
        assert moved[kind] == pytest.approx(size, rel=0.07, abs=0.05 * whole), kind


@pytest.mark.parametrize("name", [c["name"] for c in CASES if c["save"]])
def test_checkpoint(name: str, measured: dict[str, dict[str, Any]]) -> None:
    assert measured[name]["checkpoint"] == pytest.approx(predicted(BY_NAME[name])[3].checkpoint, rel=0.05)


def test_the_documented_table_is_what_is_measured(measured: dict[str, dict[str, Any]]) -> None:
    text = (ROOT / "templates" / "deepspeed" / "README.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"<!-- measured -->\n(.*?)\n<!-- /measured -->", text, re.DOTALL)
    lines, fresh = told.splitlines(), table(measured).splitlines()
    large = [line.split()[1] for line in lines[len(fresh) :]]
    assert large == [one["name"] for one in LARGE], (
        "measured by hand: python -m tests.docker.workloads.memory_cases"
    )
    for line, again in zip(lines, fresh, strict=False):
        for cell, new in zip(line.split("|"), again.split("|"), strict=True):
            if re.fullmatch(r" *\d+\.\d *", new):
                assert float(cell) == pytest.approx(float(new), rel=0.03), line
            elif "%" not in new:
                assert cell == new, line

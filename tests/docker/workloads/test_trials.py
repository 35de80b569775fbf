"""The comparisons: what is measured agrees with the paper of ZeRO and with arithmetic, the losses with each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from workloads import zero

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

MODEL = {**ranks.LLAMA, "hidden_size": 64, "intermediate_size": 192}
ARGS = ("--seq-length=32", "--max-steps=4")
CONFIG = ranks.deepspeed(2, stage=0, micro=4)


# The paper's figure 1: 7.5 billion parameters on 64 devices, in GB.
@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.88)])
def test_the_papers_formula(stage: int, gigabytes: float) -> None:
    assert zero.paper(stage, ranks=64, mixed=True) * 7.5 == pytest.approx(gigabytes, rel=0.005)


@pytest.mark.deepspeed
def test_the_stages_of_zero(tmp_path: Path) -> None:
    run = ranks.start(tmp_path, 2, CONFIG, *ARGS, model=MODEL, workload="zero")
    assert run.wait() == [0, 0], run.output()
    trials = json.loads((run.run_dir / zero.FILE).read_text())["trials"]
    assert [trial["stage"] for trial in trials] == [0, 1, 2, 3]
    assert len({round(trial["loss"], 4) for trial in trials}) == 1
    held = [trial["states"] / trial["parameters"] for trial in trials]
    assert held[0] == pytest.approx(16, rel=0.02)  # fp32: weights, gradients and two moments
    assert held[1] < held[0] - 3  # half of the moments is elsewhere
    sent = [
        {name: bytes_ / 4 / trial["parameters"] for name, bytes_ in trial["communicated"].items()}
        for trial in trials
    ]
    # one all-reduce of the gradients; a stage that partitions gathers what it updated, or what it computes with
    assert sent[0]["all_reduce"] == pytest.approx(1, rel=0.02)
    assert sent[1]["all_gather_into_tensor"] == pytest.approx(0.5, rel=0.05)
    assert sent[3]["reduce_scatter_tensor"] == pytest.approx(1, rel=0.05)
    lines = run.output(0).splitlines()
    assert sum(line.startswith("ZeRO-") and " MB " in line for line in lines) >= 4


@pytest.mark.deepspeed
def test_the_first_switches(tmp_path: Path) -> None:
    run = ranks.start(tmp_path, 2, CONFIG, *ARGS, model=MODEL, workload="startup")
    assert run.wait() == [0, 0], run.output()
    made = {t["name"]: t for t in json.loads((run.run_dir / "startup.json").read_text())["trials"]}
    base = made["data-parallel"]
    assert made["mixed-precision"]["activations"] < 0.8 * base["activations"]
    assert made["zero"]["states"] < 0.9 * base["states"]
    assert made["accumulation"]["activations"] == pytest.approx(base["activations"] / 2, rel=0.2)
    assert made["activation-checkpointing"]["activations"] < base["activations"] / 2
    assert made["all"]["states"] + made["all"]["activations"] < base["states"] + base["activations"]
    for same in ("zero", "accumulation", "activation-checkpointing"):
        assert made[same]["loss"] == pytest.approx(base["loss"], abs=1e-3)
        assert made[same]["norm"] == pytest.approx(base["norm"], rel=1e-2)


@pytest.mark.deepspeed
def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    odd = ranks.deepspeed(1, stage=0, micro=3)
    runs = [
        (
            ranks.start(tmp_path / "a", 1, odd, *ARGS, model=MODEL, workload="startup"),
            "cannot be halved to show",
        ),
        (
            ranks.start(tmp_path / "b", 1, odd, "--max-steps=2", model=MODEL, workload="zero"),
            "the first 2 are not",
        ),
    ]
    for run, message in runs:
        assert run.wait() == [64], run.output()
        assert message in run.output().splitlines()[-1]

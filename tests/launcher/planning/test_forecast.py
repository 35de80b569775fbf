"""Forecasts: the bound with measured rates, corrected by runs, with a bar that says how far off they were."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.files import load, measured, validation
from launcher.planning import forecast, plan, residuals
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.planning.plan import Plan

H100: dict[str, Any] = {
    "gpu": "h100-80gb",
    "slots": 8,
    "fabric": "infiniband",
    "memory": "2000GB",
    "bandwidth": 3200,
}
JOB: dict[str, Any] = {
    "model": "llama-7b",
    "batch": {"micro": 1},
    "deepspeed": "zero3",
    "args": {"seq-length": 2048},
}


def decided(job: dict[str, Any], cluster: dict[str, Any], found: dict[str, Any]) -> Plan:
    own = validation.build(measured.Measured, found)
    return plan.make(load.Loaded(samples.job(**job), samples.cluster(**cluster), measured=own), samples.SITE)


def flat(flops: float, link: float, fabric: float, memory: float, host: float, **more: Any) -> dict[str, Any]:
    """A probe of GPUs whose rates do not depend on sizes, and do not scatter."""
    kinds = ("all_reduce", "all_gather", "reduce_scatter")
    scopes = {"host": (8, link), "world": (16, fabric)}
    probe = samples.probed(
        device="cuda",
        slots=8,
        ranks=16,
        matrix=[{"type": "bf16", "size": 1024, "rate": samples.rate(flops, 0)}],
        memory=samples.rate(memory, 0),
        transfers=[{"what": "to_device", "rate": samples.rate(host, 0)}],
        collectives=[
            {"kind": kind, "scope": scope, "ranks": ranks, "bytes": 2**20, "rate": samples.rate(best, 0)}
            for scope, (ranks, best) in scopes.items()
            for kind in kinds
        ],
    )
    return samples.measured(gpu="h100-80gb", slots=8, probe=probe, **more)


SHEET = {"flops": 989e12, "link": 450e9, "fabric": 400e9, "memory": 3350e9, "host": 64e9}


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_cluster_that_does_what_its_data_sheet_says_takes_the_bound(nodes: int) -> None:
    made = decided({**JOB, "nodes": nodes}, H100, flat(**SHEET))
    assert made.estimate
    assert made.estimate.bound
    assert made.forecast
    assert made.forecast.step == pytest.approx(made.estimate.bound.step, rel=0.02)
    assert made.forecast.mfu == pytest.approx(made.estimate.bound.mfu, rel=0.02)
    assert (made.forecast.low, made.forecast.high) == pytest.approx((made.forecast.step,) * 2)


@pytest.mark.parametrize("part", ["flops", "fabric"])
def test_what_is_half_as_fast_takes_longer(part: str) -> None:
    job = {**JOB, "nodes": 2}
    slower = decided(job, H100, flat(**{**SHEET, part: SHEET[part] / 20})).forecast
    whole = decided(job, H100, flat(**SHEET)).forecast
    assert slower
    assert whole
    assert slower.step > 3 * whole.step


def test_rates_of_the_own_type_and_size_are_taken() -> None:
    def step(micro: int, **more: Any) -> forecast.Forecast:
        job = {"batch": {"micro": micro}, "args": {"seq-length": 64}, **more}
        found = decided(job, {}, samples.measured()).forecast
        assert found
        return found

    # the sample computes fp32 at twice bf16's rate, and large products at a higher one than small ones
    assert step(1, precision="bf16").parts.compute == pytest.approx(2 * step(1).parts.compute, rel=0.01)
    assert step(8).parts.compute < 7 * step(1).parts.compute
    one = step(1)
    assert one.low < one.step < one.high  # the rounds of the probe scatter by a tenth
    assert one.high / one.step == pytest.approx(1 / 0.9, rel=0.05)


def test_hosts_beyond_those_of_the_probe_need_the_rate_between_hosts() -> None:
    within = [c for c in samples.probed()["collectives"] if c["scope"] == "host"]
    alone = samples.measured(probe=samples.probed(collectives=within))
    assert decided({"nodes": 1}, {"fabric": "tcp"}, alone).forecast
    assert decided({"nodes": 2}, {"fabric": "tcp"}, alone).forecast is None
    assert decided({"nodes": 2}, {"fabric": "tcp", "bandwidth": 10}, alone).forecast
    assert decided({"nodes": 2}, {"fabric": "tcp"}, samples.measured()).forecast


def test_runs_correct_the_forecast_and_say_how_far_off_it_is() -> None:
    first = decided({}, {}, samples.measured()).forecast
    assert first
    assert first.runs == 0
    # each layer costs 3 ms more than the probe says, and all it says takes twice as long
    points = [(0.01, 2.0), (0.02, 4.0), (0.04, 2.0), (0.08, 8.0), (0.05, 12.0)]
    scatter = (1.05, 0.95, 1.02, 0.97, 1.01)
    runs = [
        samples.ran(f"r{i}", x, p, (2 * x + 0.003 * p) * off)
        for i, ((x, p), off) in enumerate(zip(points, scatter, strict=True))
    ]
    made = decided({}, {}, samples.measured(runs=runs))
    assert made.forecast
    assert made.estimate
    wanted = 2 * first.step + 0.003 * forecast.passes(made.estimate)
    assert made.forecast.step == pytest.approx(wanted, rel=0.06)
    assert made.forecast.low < wanted < made.forecast.high
    assert 1.02 < made.forecast.high / made.forecast.step < 1.6
    assert made.forecast.tokens_per_second
    assert first.tokens_per_second
    assert made.forecast.tokens_per_second * made.forecast.step == pytest.approx(
        first.tokens_per_second * first.step
    )


def test_one_run_has_no_scatter_so_the_bar_is_as_wide_as_its_correction() -> None:
    first = decided({}, {}, samples.measured()).forecast
    made = decided({}, {}, samples.measured(runs=[samples.ran("r", 0.01, 2, 0.03)])).forecast
    assert first
    assert made
    assert made.step == pytest.approx(3 * first.step)
    assert (made.low, made.high) == pytest.approx((first.step, 9 * first.step))


def test_checkpoints_and_memory_are_those_of_runs() -> None:
    more = {"memory": 90, "planned_memory": 100, "checkpoint_seconds": 2.0, "checkpoint_bytes": 10**9}
    made = decided({}, {}, samples.measured(runs=[samples.ran("r", 0.01, 2, 0.03, **more)]))
    plain = decided({}, {}, samples.measured()).forecast
    assert made.forecast
    assert made.estimate
    assert made.estimate.saving
    assert plain
    assert plain.memory is None
    assert made.forecast.memory == pytest.approx(0.9)
    assert made.forecast.checkpoint == pytest.approx(made.estimate.saving.size / 5e8)
    assert plain.checkpoint == pytest.approx(made.estimate.saving.size / 2e9)  # two hosts, 1 GB/s each


def test_a_gpu_with_less_memory_than_planned_is_noted() -> None:
    host = {**samples.probed()["hosts"][0], "gpu": "NVIDIA H100 80GB HBM3"}
    for memory, notes in ((70 * 2**30, 1), (80 * 2**30, 0)):
        found = flat(**SHEET)
        found["probe"]["hosts"] = [{**host, "memory": memory}]
        made = decided(JOB, H100, found)
        assert len([n for n in made.notes if "torch had" in n]) == notes
    assert not decided({}, {}, samples.measured()).notes


def test_least_squares_find_what_made_the_points() -> None:
    points = [residuals.Point(x, p, 1.5 * x + 0.25 * p) for x, p in ((1, 1), (2, 1), (3, 8), (5, 2))]
    found = residuals.fit(points)
    assert (found.scale, found.each, found.error) == pytest.approx((1.5, 0.25, 1.0))
    assert residuals.fit([]) == residuals.Line()
    assert residuals.fit(points[:2]).error is None
    alike = residuals.fit([residuals.Point(1, 2, 3)] * 5)
    assert (alike.scale, alike.each) == pytest.approx((3, 0))
    falling = residuals.fit([residuals.Point(x, 10 - x, x) for x in (1.0, 2.0, 4.0, 8.0)])
    assert falling.each == 0
    constant = residuals.fit([residuals.Point(x, 1, 1) for x in (1.0, 20.0, 400.0, 8000.0)])
    assert min(constant.scale, constant.each) >= 0
    assert math.isfinite(constant.error or 0)


def test_plan_says_it_and_json_has_its_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_text(samples.JOB)
    (tmp_path / "here.yaml").write_text(samples.CLUSTER)
    assert main.main(["plan", str(tmp_path / "job.yaml")]) == 0
    assert "forecast              none, as this cluster was not measured" in capsys.readouterr().out
    (tmp_path / "here.measured.json").write_text(json.dumps(samples.measured()))
    assert main.main(["plan", str(tmp_path / "job.yaml")]) == 0
    text = capsys.readouterr().out
    assert "which rests on      probe-abc123, measured until 2026-11-26, and no run" in text
    assert main.main(["plan", str(tmp_path / "job.yaml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["forecast"]
    assert told["low"] < told["step"] < told["high"]
    assert (told["probe"], told["runs"]) == ("probe-abc123", 0)
    (tmp_path / "here.measured.json").write_text("{")
    assert main.main(["plan", str(tmp_path / "job.yaml")]) == 0
    out, err = capsys.readouterr()
    assert "forecast              none" in out
    assert "here.measured.json:1:2: not JSON" in err
    assert main.main(["plan", str(tmp_path / "job.yaml"), "--strict"]) == 3

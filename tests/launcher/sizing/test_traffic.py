"""Volumes, arithmetic and step times against published figures; a bound is never slower than a real run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.sizing import gpus, models, traffic, zero
from launcher.sizing import setup as sizing_setup
from launcher.sizing.architecture import Architecture
from tests.launcher.sizing import zero_paper


def named(name: str) -> Architecture:
    found = models.load(name)
    assert isinstance(found, Architecture)
    return found


def settings(stage: int, accumulation: int = 1, **keys: Any) -> zero.Zero:
    return zero.read(
        {
            "bf16": {"enabled": True},
            "gradient_accumulation_steps": accumulation,
            "zero_optimization": {"stage": stage, **keys},
        }
    )


A100, H100 = gpus.load("a100-80gb"), gpus.load("h100-80gb")

# llm-foundry, scripts/train/benchmarking/README.md (MPT, 8 A100 of 80 GB, sequence 2048; the 70B on 64): layers,
# hidden, tokens a second and GPU, and the model FLOPS utilization printed beside them.
MPT = {
    "1b": (24, 2048, 20_513, 0.599),
    "7b": (32, 4096, 4_641, 0.642),
    "13b": (40, 5120, 2_262, 0.596),
    "30b": (48, 7168, 916, 0.553),
    "70b": (80, 8192, 410, 0.533),
}


@pytest.mark.parametrize("size", MPT)
def test_flops_give_the_published_utilization(size: str) -> None:
    layers, hidden, tokens, utilization = MPT[size]
    model = models.from_config(
        {
            "model_type": "gpt2",
            "n_layer": layers,
            "n_embd": hidden,
            "n_head": hidden // 128,
            "vocab_size": 50368,
        }
    )
    assert isinstance(model, Architecture)
    assert tokens * traffic.flops_per_token(model, 2048) / A100.flops == pytest.approx(utilization, rel=0.02)


def test_flops_leave_out_the_look_up_and_count_a_tied_head() -> None:
    gpt2, llama = named("gpt2"), named("llama-7b")
    assert traffic.flops_per_token(gpt2, 0) == 6 * (gpt2.parameters - 1024 * 768)
    assert traffic.flops_per_token(llama, 0) == 6 * (llama.parameters - 32000 * 4096)
    assert traffic.flops_per_token(llama, 2048) - traffic.flops_per_token(llama, 0) == 12 * 32 * 4096 * 2048


def test_a_token_of_a_mixture_passes_through_its_own_experts_only() -> None:
    assert traffic.flops_per_token(named("mixtral-8x7b"), 0) < 6 * 13.0e9


# Real runs, tokens a second and GPU: torchtitan's benchmarks (Llama 3.1 8B, sequence 8192, H100, FSDP with
# selective checkpointing, local batch 2) and llm-foundry's on H100.
RUNS = [
    ("llama-3-8b", 8, 2, 8192, True, 6_667),
    ("llama-3-8b", 128, 2, 8192, True, 6_514),
    ("llama-7b", 8, 6, 2048, False, 10_643),
]


@pytest.mark.parametrize(("name", "world", "micro", "sequence", "checkpointing", "tokens"), RUNS)
def test_real_runs_are_slower_than_the_bound(
    name: str, world: int, micro: int, sequence: int, checkpointing: bool, tokens: int
) -> None:
    setup = sizing_setup.Setup(world, 8, micro, sequence, checkpointing=checkpointing)
    found = traffic.bound(named(name), settings(3), setup, gpu=H100, rates=traffic.Rates(400e9))
    assert found.tokens_per_second is not None
    assert tokens < found.tokens_per_second / world < 6 * tokens


def test_one_rank_sends_nothing() -> None:
    assert traffic.collectives(named("gpt2"), settings(3), sizing_setup.Setup(1, 1, 1, 1024)) == ()


def test_one_host_uses_no_fabric() -> None:
    model, setup = named("gpt2"), sizing_setup.Setup(8, 8, 1, 1024)
    moved = traffic.collectives(model, settings(2), setup)
    assert traffic.volume(moved, "fabric", 8) == 0
    assert traffic.volume(moved, "slot") > 0
    assert traffic.bound(model, settings(2), setup, gpu=H100, rates=traffic.Rates(None)).fabric == 0


def test_without_the_fabrics_rate_there_is_no_step_time() -> None:
    found = traffic.bound(
        named("gpt2"), settings(2), sizing_setup.Setup(16, 8, 1, 1024), gpu=H100, rates=traffic.Rates(None)
    )
    assert (found.fabric, found.step, found.mfu, found.tokens_per_second) == (None, None, None, None)
    assert found.compute > 0


def test_stage_2_reduces_after_each_micro_batch_and_stage_1_once() -> None:
    model, setup = named("llama-7b"), sizing_setup.Setup(64, 8, 1, 2048)
    once, each = (traffic.collectives(model, settings(stage, accumulation=4), setup) for stage in (1, 2))
    assert [c.times for c in once] == [1, 1]
    assert [c.times for c in each] == [4, 1]


def test_hpz_gathers_within_the_host_in_the_backward_pass() -> None:
    model, setup = named("llama-2-70b"), sizing_setup.Setup(64, 8, 1, 2048)
    moved = traffic.collectives(model, settings(3, zero_hpz_partition_size=8), setup)
    backward = next(c for c in moved if c.what == "weights, backward")
    assert (backward.group, backward.scope) == (8, "host")


def test_zeropp_pays_where_the_fabric_is_slow() -> None:
    model, setup = named("llama-2-70b"), sizing_setup.Setup(64, 8, 1, 4096)
    keys = {"zero_hpz_partition_size": 8, "zero_quantized_weights": True, "zero_quantized_gradients": True}
    for fabric, faster in ((12.5e9, True), (400e9, False)):
        plain = traffic.bound(model, settings(3), setup, gpu=H100, rates=traffic.Rates(fabric)).step
        quantized = traffic.bound(
            model, settings(3, **keys), setup, gpu=H100, rates=traffic.Rates(fabric)
        ).step
        assert plain is not None
        assert quantized is not None
        assert (quantized < 0.5 * plain) is faster


def test_offload_is_slower_and_a_longer_step_hides_it() -> None:
    model, setup = named("llama-7b"), sizing_setup.Setup(8, 8, 1, 2048)
    device = {"offload_optimizer": {"device": "cpu"}}
    ratios = []
    for accumulation in (1, 16):
        near = traffic.bound(
            model, settings(2, accumulation), setup, gpu=H100, rates=traffic.Rates(None)
        ).step
        far = traffic.bound(
            model, settings(2, accumulation, **device), setup, gpu=H100, rates=traffic.Rates(None)
        ).step
        assert near is not None
        assert far is not None
        ratios.append(far / near)
    assert ratios[0] > ratios[1] > 1


@given(
    st.sampled_from(["gpt2", "llama-7b", "mixtral-8x7b"]),
    st.integers(0, 3),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from(gpus.names()),
    st.floats(1e9, 1e12),
)
def test_no_utilization_above_one(
    name: str,
    stage: int,
    hosts: int,
    micro: int,
    accumulation: int,
    checkpointing: bool,
    gpu: str,
    fabric: float,
) -> None:
    setup = sizing_setup.Setup(8 * hosts, 8, micro, 1024, checkpointing=checkpointing)
    found = traffic.bound(
        named(name), settings(stage, accumulation), setup, gpu=gpus.load(gpu), rates=traffic.Rates(fabric)
    )
    assert found.mfu is not None
    assert found.step is not None
    assert 0 < found.mfu <= (0.75 if checkpointing else 1.0) + 1e-9
    assert found.step >= found.compute


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_papers_volume_is_shown_beside(stage: int) -> None:
    model, setup = named("gpt2"), sizing_setup.Setup(64, 8, 1, 1024)
    one = traffic.by_paper(model, settings(stage), setup)
    assert one == pytest.approx(2 * zero_paper.volume(model.parameters, stage) * 63 / 64)
    config = {
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage},
        "gradient_accumulation_steps": 4,
    }
    four = traffic.by_paper(model, zero.read(config), setup)
    assert four / one == pytest.approx({0: 1, 1: 1, 2: 5 / 2, 3: 4}[stage])

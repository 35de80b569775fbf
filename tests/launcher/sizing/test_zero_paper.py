"""Every printed cell of the ZeRO papers that the formulas claim to give, and DeepSpeed's estimators themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.sizing import memory, models, states, traffic, zero
from launcher.sizing import setup as sizing_setup
from launcher.sizing.architecture import Architecture
from tests.launcher.sizing import zero_paper

GB = 10**9
BILLION = 10**9

# ZeRO, arXiv 1910.02054, table 1: bytes in GB for one device, by degree of data parallelism (rows), for
# Pos, Pos+g and Pos+g+p (columns). The 7.5B figures are rounded, the others cut.
TABLE_1 = {
    7.5: {
        1: ("120", "120", "120"),
        4: ("52.5", "41.3", "30"),
        16: ("35.6", "21.6", "7.5"),
        64: ("31.4", "16.6", "1.88"),
        256: ("30.4", "15.4", "0.47"),
        1024: ("30.1", "15.1", "0.12"),
    },
    128: {
        1: ("2048", "2048", "2048"),
        4: ("896", "704", "512"),
        16: ("608", "368", "128"),
        64: ("536", "284", "32"),
        256: ("518", "263", "8"),
        1024: ("513", "257", "2"),
    },
    1000: {
        1: ("16000", "16000", "16000"),
        4: ("7000", "5500", "4000"),
        16: ("4750", "2875", "1000"),
        64: ("4187", "2218", "250"),
        256: ("4046", "2054", "62.5"),
        1024: ("4011", "2013", "15.6"),
    },
}
# Bold in table 1: what fits on a 32 GB V100 at the smallest degree.
FITS_FIRST = {(7.5, 1): 64, (7.5, 2): 16, (7.5, 3): 4, (128, 3): 64, (1000, 3): 1024}

CELLS = [
    (size, world, stage, cell)
    for size, rows in TABLE_1.items()
    for world, row in rows.items()
    for stage, cell in zip((1, 2, 3), row, strict=True)
]


@pytest.mark.parametrize(("size", "world", "stage", "cell"), CELLS)
def test_table_1(size: float, world: int, stage: int, cell: str) -> None:
    value = zero_paper.states(size * BILLION, stage, world) / GB
    digits = len(cell.partition(".")[2])
    if size == 7.5:
        assert abs(value - float(cell)) <= 0.5 * 10**-digits + 1e-9
    else:
        assert math.floor(value * 10**digits) / 10**digits == float(cell)


@pytest.mark.parametrize(("size", "stage"), FITS_FIRST)
def test_table_1_bold(size: float, stage: int) -> None:
    fitting = [n for n in TABLE_1[size] if zero_paper.states(size * BILLION, stage, n) <= 32 * GB]
    assert min(fitting) == FITS_FIRST[size, stage]


def test_figure_1() -> None:
    figures = [zero_paper.states(7.5 * BILLION, stage, 64) / GB for stage in range(4)]
    assert [round(f, 1) for f in figures] == [120, 31.4, 16.6, 1.9]


# ZeRO, table 2: model parallel degree: (GPUs, largest model in billions without ZeRO and for Pos, Pos+g, Pos+g+p;
# measured without ZeRO and with Pos), on 32 GB V100s with 64-way data parallelism.
TABLE_2 = {
    1: (64, (2, 7.6, 14.4, 128), (1.3, 6.2)),
    2: (128, (4, 15.2, 28.8, 256), (2.5, 12.5)),
    4: (256, (8, 30.4, 57.6, 500), (5, 25)),
    8: (512, (16, 60.8, 115.2, 1000), (10, 50)),
    16: (1024, (32, 121.6, 230.4, 2000), (20, 100)),
}


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("degree", TABLE_2)
def test_table_2(degree: int, stage: int) -> None:
    devices, cells, _ = TABLE_2[degree]
    world = devices // degree
    # The table multiplies the rounded first row, and writes 512, 1024 and 2048 billion as 0.5T, 1T and 2T.
    row = round(zero_paper.max_parameters(32 * GB, stage, world) / BILLION, 1) * degree
    shown = round(row, 1) if row < 500 else float(f"{row:.0e}")
    assert shown == cells[stage]
    exact = zero_paper.max_parameters(32 * GB, stage, world, degree) / BILLION
    assert exact == pytest.approx(row, rel=0.01)


@pytest.mark.parametrize("degree", TABLE_2)
def test_table_2_measured_models_are_below_the_bound(degree: int) -> None:
    devices, _, measured = TABLE_2[degree]
    for stage, size in enumerate(measured):
        assert size * BILLION < zero_paper.max_parameters(32 * GB, stage, devices // degree, degree)


def test_gpt2_xl_needs_24_gb_for_3_gb_of_weights() -> None:
    # ZeRO, section 3.1.
    assert 2 * 1.5 * BILLION == 3 * GB
    assert zero_paper.states(1.5 * BILLION, 0, 1) == 24 * GB


def test_13_billion_without_model_parallelism_on_128_devices() -> None:
    # ZeRO, section 10.4 (figure 4): Pos+g trains 13B on 128 V100s; without ZeRO not even 2B fit.
    assert zero_paper.states(13 * BILLION, 2, 128) < 32 * GB < zero_paper.states(13 * BILLION, 1, 128)
    assert zero_paper.states(2.1 * BILLION, 0, 128) > 32 * GB


def test_activations_of_gpt2_xl() -> None:
    # ZeRO, section 3.2: about 60 GB for 1.5B parameters, sequence 1K, batch 32.
    assert zero_paper.activations(1600, 48, 1024, 32) / GB == pytest.approx(60, rel=0.02)


def test_volumes() -> None:
    # ZeRO, section 7: 2, 2 and 3 x the parameters; section 8: the ratio to model parallelism.
    assert [zero_paper.volume(1.0, stage) for stage in range(4)] == [2, 2, 2, 3]
    hidden, layers = 8192, 125
    ratio = zero_paper.model_parallel_volume(32, 1024, hidden, layers) / zero_paper.volume(
        12 * layers * hidden**2, 3
    )
    assert ratio == pytest.approx(32 * 1024 / (3 * hidden))


def test_zeropp_volumes() -> None:
    # ZeRO++, arXiv 2306.10209, table 1: 3 M for ZeRO-3, 0.75 M with all three.
    m = 2.0
    assert zero_paper.zeropp_volume(1, False, False, False) == 3 * m
    assert zero_paper.zeropp_volume(1, True, True, True) == 0.75 * m
    assert zero_paper.zeropp_volume(1, False, True, False) == 2 * m
    assert zero_paper.zeropp_volume(1, True, False, False) == 2 * m
    assert zero_paper.zeropp_volume(1, False, False, True) == 2.25 * m


def bf16(stage: int, **keys: Any) -> zero.Zero:
    return zero.read({"bf16": {"enabled": True}, "zero_optimization": {"stage": stage, **keys}})


def llama() -> Architecture:
    model = models.load("llama-7b")
    assert isinstance(model, Architecture)
    return model


@pytest.mark.parametrize(
    ("settings", "paper"),
    [
        (bf16(0), 2),
        (bf16(1, use_multi_rank_bucket_allreduce=False), 2),
        (bf16(2, use_multi_rank_bucket_allreduce=False), 2),
        (bf16(1), 3),  # DeepSpeed's default: all ranks' gradients in one all-reduce, then the gather
        (bf16(2), 3),
        (bf16(3, stage3_max_live_parameters=0, stage3_max_reuse_distance=0), 3),
        (bf16(3, stage3_max_live_parameters=10**10), 2),  # all weights stay for the backward pass
    ],
)
def test_deepspeeds_volume_beside_the_papers(settings: zero.Zero, paper: int) -> None:
    model, world = llama(), 64
    moved = traffic.collectives(model, settings, sizing_setup.Setup(world, 8, 1, 2048))
    elements = traffic.volume(moved, "slot") / 2 * world / (world - 1)
    assert elements / model.parameters == pytest.approx(paper, rel=1e-3)


def test_zeropp_volume_between_hosts_is_the_papers() -> None:
    model, hosts = llama(), 64
    keys = {"zero_quantized_weights": True, "zero_hpz_partition_size": 8, "zero_quantized_gradients": True}
    settings = bf16(3, stage3_max_live_parameters=0, stage3_max_reuse_distance=0, **keys)
    moved = traffic.collectives(model, settings, sizing_setup.Setup(8 * hosts, 8, 1, 2048))
    between = traffic.volume(moved, "fabric", 8)
    assert between == pytest.approx(zero_paper.zeropp_volume(model.parameters, True, True, True), rel=0.02)


def test_hpz_memory_is_the_papers() -> None:
    model = llama()
    settings = bf16(3, zero_hpz_partition_size=8)
    held = states.secondary(model, settings, model.parameters)
    assert held == pytest.approx(zero_paper.hpz_memory(model.parameters, 8))


@pytest.mark.parametrize("world", [1, 2, 64])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_states_of_a_plan_are_the_papers(stage: int, world: int) -> None:
    """What a slot holds when the gradients are all there; stage 1 adds the copy of its own part."""
    model = llama()
    setup = sizing_setup.Setup(world, min(world, 8), 1, 2048)
    end = memory.estimate(model, bf16(stage, stage3_param_persistence_threshold=0), setup).moments["end"]
    copied = 2 * model.parameters / world if stage == 1 else 0
    assert end.states == pytest.approx(zero_paper.states(model.parameters, stage, world) + copied, rel=1e-6)


def test_offload_keeps_the_papers_bytes() -> None:
    # ZeRO-Offload, section 4; DeepSpeed holds fp32 gradients on the host and a 16-bit buffer of its part besides.
    model, world = llama(), 8
    settings = bf16(2, offload_optimizer={"device": "cpu"})
    found = memory.estimate(model, settings, sizing_setup.Setup(world, world, 1, 2048))
    on_slot, on_host = zero_paper.offload_states(model.parameters, world)
    assert found.slot.states == on_slot
    assert found.host.optimizer + found.host.gradients == pytest.approx(
        (on_host + 2 * model.parameters / world) * world
    )


@pytest.mark.torch
@given(
    st.integers(10**6, 10**12),
    st.integers(10**4, 10**9),
    st.integers(1, 16),
    st.integers(1, 512),
    st.booleans(),
)
def test_deepspeeds_own_estimators(parameters: int, largest: int, slots: int, hosts: int, init: bool) -> None:
    stage2 = pytest.importorskip(
        "deepspeed.runtime.zero.stage_1_and_2", reason="its function is the reference"
    )
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3", reason="its function is the reference")
    for offload in (False, True):
        theirs = stage2.estimate_zero2_model_states_mem_needs(parameters, slots, hosts, offload)
        # theirs is rounded after a sum of floats: the last byte may differ
        assert zero_paper.estimate_zero2(parameters, slots, hosts, offload) == pytest.approx(
            theirs, rel=0, abs=2
        )
    for mode in ("none", "optimizer", "both"):
        host, slot, _ = stage3.estimate_zero3_model_states_mem_needs(
            parameters, largest, slots, hosts, mode != "none", mode == "both", init
        )
        ours = zero_paper.estimate_zero3(parameters, largest, slots, hosts, mode, init)
        assert ours == pytest.approx((host, slot), rel=0, abs=2)


def test_where_the_estimators_differ_from_the_paper() -> None:
    parameters, gib_free = 7_500_000_000, 10**9
    # An fp32 gradient for each parameter of the rank's part: 4 bytes more than the paper.
    _, slot = zero_paper.estimate_zero2(parameters, 8, 8, False)
    assert slot / gib_free == pytest.approx(17.11, abs=0.01)
    assert slot - zero_paper.states(parameters, 2, 64) == pytest.approx(4 * parameters / 64)
    # The host's part of an offloaded optimizer grows with every GPU of the job, and is not divided by hosts.
    host, _ = zero_paper.estimate_zero2(parameters, 8, 8, True)
    assert host == 2880 * GB
    needed = memory.estimate(
        llama(), bf16(2, offload_optimizer={"device": "cpu"}), sizing_setup.Setup(64, 8, 1, 2048)
    ).host
    assert needed.total * 7.5 / 6.74 < host / 10

"""DeepSpeed's keys as the planner reads them, and its defaults against DeepSpeed's own classes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.sizing import memory, models, setup, zero
from launcher.sizing.architecture import Architecture


def read(**section: Any) -> zero.Zero:
    return zero.read({"zero_optimization": section})


@pytest.mark.torch
def test_defaults_are_deepspeeds() -> None:
    config = pytest.importorskip("deepspeed.runtime.zero.config", reason="its defaults are the reference")
    offload = pytest.importorskip(
        "deepspeed.runtime.zero.offload_config", reason="its defaults are the reference"
    )
    for stage in range(4):
        theirs, mine = config.DeepSpeedZeroConfig(stage=stage), read(stage=stage)
        assert mine.overlap == theirs.overlap_comm
        assert mine.contiguous == theirs.contiguous_gradients
        assert mine.multi_rank == theirs.use_multi_rank_bucket_allreduce
        assert mine.reduce_bucket == theirs.reduce_bucket_size
        assert mine.prefetch == theirs.prefetch_bucket_size
        assert mine.persistence == theirs.param_persistence_threshold
        assert mine.max_live == theirs.max_live_parameters
        assert mine.max_reuse == theirs.max_reuse_distance
        assert mine.sub_group == theirs.sub_group_size
        assert mine.hpz == theirs.zero_hpz_partition_size
        assert mine.quantized_weights == theirs.zero_quantized_weights
        assert mine.quantized_gradients == theirs.zero_quantized_gradients
        assert (mine.offload_optimizer, mine.offload_param) == ("none", "none")
    mine = read(stage=3, offload_optimizer={"device": "cpu"}, offload_param={"device": "nvme"})
    optimizer, param = (
        offload.DeepSpeedZeroOffloadOptimizerConfig(),
        offload.DeepSpeedZeroOffloadParamConfig(),
    )
    assert (mine.pin_optimizer, mine.pin_param) == (optimizer.pin_memory, param.pin_memory)
    assert (mine.optimizer_buffers, mine.param_buffers) == (optimizer.buffer_count, param.buffer_count)
    assert (mine.param_buffer_size, mine.max_in_cpu) == (param.buffer_size, param.max_in_cpu)
    assert mine.offload_ratio == optimizer.ratio


def test_numbers_may_be_written_as_floats_and_left_to_auto() -> None:
    assert read(stage=2, reduce_bucket_size=5e7).reduce_bucket == 50_000_000
    assert read(stage=2, reduce_bucket_size="auto").reduce_bucket == 500_000_000
    assert read(stage=3, zero_hpz_partition_size="slots").hpz == 1
    assert read(stage=True).stage == 0


@pytest.mark.parametrize(
    ("config", "weight", "activation", "gradient"),
    [
        ({}, 4, 4, 4),
        ({"bf16": {"enabled": True}}, 2, 2, 2),
        ({"bfloat16": {"enabled": True}}, 2, 2, 2),
        ({"fp16": {"enabled": True}}, 2, 2, 2),
        ({"bf16": {"enabled": False}}, 4, 4, 4),
        ({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, 4, 2, 4),
        ({"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}, 2, 2, 4),
        ({"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "torch.float32"}}, 2, 2, 4),
    ],
)
def test_precision(config: dict[str, Any], weight: int, activation: int, gradient: int) -> None:
    found = zero.read(config)
    assert (found.weight_bytes, found.activation_bytes, found.gradient_bytes) == (
        weight,
        activation,
        gradient,
    )


@pytest.mark.parametrize(
    ("kind", "states"),
    [("AdamW", 2), ("Lion", 1), ("SGD", 0), ("Muon", 2), ("RMSprop", 1), ("ASGD", 1), ("Other", 2)],
)
def test_optimizers(kind: str, states: int) -> None:
    assert zero.read({"optimizer": {"type": kind}}).states == states


@pytest.mark.parametrize(
    ("kind", "params", "states"),
    [
        ("SGD", {"momentum": 0.9}, 1),
        ("SGD", {"momentum": 0}, 0),
        ("AdamW", {"amsgrad": True, "torch_adam": True}, 3),
        ("RMSprop", {"momentum": 0.9, "centered": True}, 3),
    ],
)
def test_parameters_of_an_optimizer_that_add_a_state(kind: str, params: dict[str, Any], states: int) -> None:
    assert zero.read({"optimizer": {"type": kind, "params": params}}).states == states


def test_master_weights_in_sixteen_bits() -> None:
    for name in ("bf16", "fp16"):
        section = {"enabled": True, f"{name}_master_weights_and_grads": True}
        assert zero.read({name: section}).master_bytes == 2


def test_parameters_are_offloaded_in_stage_3_only() -> None:
    assert read(stage=2, offload_param={"device": "cpu"}).offload_param == "none"
    assert read(stage=3, offload_param={"device": "cpu"}).offload_param == "cpu"


KEYS = st.sampled_from([*zero.Zero._fields, "stage", "reduce_bucket_size", "device", "ratio"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.dictionaries(KEYS, inner, max_size=4) | st.lists(inner, max_size=2),
    max_leaves=10,
)
SECTIONS = [
    "zero_optimization",
    "bf16",
    "optimizer",
    "data_types",
    "gradient_accumulation_steps",
    "torch_autocast",
]


@given(st.dictionaries(st.sampled_from(SECTIONS), VALUES))
def test_no_configuration_is_too_strange_to_weigh(config: dict[str, Any]) -> None:
    model = models.load("gpt2")
    assert isinstance(model, Architecture)
    assert memory.estimate(model, zero.read(config), setup.Setup(8, 8, 1, 128)).slot.total > 0


@pytest.mark.parametrize(
    ("params", "temporaries"),
    [
        ({}, False),
        ({"torch_adam": True}, False),  # the workloads make it torch's fused one
        ({"torch_adam": True, "foreach": True}, True),
        ({"torch_adam": True, "fused": False}, True),
        ({"torch_adam": True, "fused": True, "foreach": True}, False),
    ],
)
def test_torchs_fused_adam_needs_no_temporary_tensors(params: dict[str, object], temporaries: bool) -> None:
    settings = zero.read({"optimizer": {"type": "AdamW", "params": params}})
    assert settings.torch_adam is temporaries

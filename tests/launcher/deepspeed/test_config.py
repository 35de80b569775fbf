"""The batch rule always holds, the values it proposes are right, and merging changes neither mapping."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.deepspeed import config as deepspeed_config
from launcher.deepspeed import keys
from launcher.errors import PlanError

SMALL = st.integers(1, 64)
TRAINS = st.one_of(st.none(), st.integers(1, 5000))
KEYS = st.sampled_from("abc")
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        st.integers() | st.none() | st.text(max_size=3),
        lambda inner: st.dictionaries(KEYS, inner),
        max_leaves=8,
    ),
)


@given(SMALL, st.one_of(st.none(), SMALL), TRAINS, SMALL)
def test_batch(micro: int, accumulation: int | None, train: int | None, world_size: int) -> None:
    try:
        made = deepspeed_config.batch(micro, accumulation, train, world_size)
    except PlanError:
        assert train is not None
        assert train % (micro * world_size) or train != micro * world_size * (accumulation or 0)
    else:
        assert made.train == made.micro * made.accumulation * world_size
        assert made.micro == micro
        assert made.accumulation == (accumulation or made.accumulation)
        assert made.train == (train or made.train)


@given(SMALL, st.integers(1, 5000), SMALL)
def test_proposed_values_are_valid_and_the_nearest(micro: int, train: int, world_size: int) -> None:
    one_pass = micro * world_size
    if train % one_pass == 0:
        return
    with pytest.raises(PlanError) as caught:
        deepspeed_config.batch(micro, None, train, world_size)
    (problem,) = caught.value.problems
    text, _, proposed_micro = problem.hint.partition(", or batch.micro ")
    trains = [int(number) for number in re.findall(r"\d+", text)]
    assert trains == [
        value for value in (train // one_pass * one_pass, (train // one_pass + 1) * one_pass) if value
    ]
    for value in trains:
        assert deepspeed_config.batch(micro, None, value, world_size).train == value
    micros = [m for m in range(1, train + 1) if train % (m * world_size) == 0]
    assert bool(micros) == bool(proposed_micro)
    if micros:
        deepspeed_config.batch(int(proposed_micro), None, train, world_size)
        assert abs(int(proposed_micro) - micro) == min(abs(m - micro) for m in micros)


def test_a_huge_batch_is_refused_at_once() -> None:
    with pytest.raises(PlanError, match=r"use batch.global 2147483644 or 2147483646, or batch.micro 1"):
        deepspeed_config.batch(2, None, 2**31 - 3, 1)


def test_contradiction() -> None:
    with pytest.raises(
        PlanError, match=r"batch.global 16 is not micro 2 × accumulation 3 × world size 2 = 12"
    ):
        deepspeed_config.batch(2, 3, 16, 2)


@given(TREES, TREES)
def test_merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    before = copy.deepcopy((below, above))
    merged = deepspeed_config.merge(below, above)
    assert (below, above) == before
    assert set(merged) == set(below) | set(above)
    for key, value in merged.items():
        if key not in above:
            assert value == below[key]
        elif isinstance(value, dict) and isinstance(below.get(key), dict):
            assert value == deepspeed_config.merge(below[key], above[key])
        else:
            assert value == above[key]
    assert deepspeed_config.merge(merged, above) == merged
    assert deepspeed_config.merge(below, {}) == below
    assert deepspeed_config.merge({}, above) == above


NUMBERS = deepspeed_config.BatchSizes(micro=2, accumulation=3, train=48)


def config(
    preset: str, overrides: dict[str, Any], hosts: int = 1, largest: int | None = None
) -> dict[str, Any]:
    inputs = deepspeed_config.Inputs(overrides, "bf16", slots=8, nvme="/nvme", largest_parameter=largest)
    return deepspeed_config.make(inputs, preset, hosts, NUMBERS)


@pytest.mark.parametrize("name", deepspeed_config.presets())
def test_preset(name: str) -> None:
    made = config(name, {})
    assert [made[key] for key in keys.BATCH] == [48, 2, 3]
    assert made["bf16"] == {"enabled": True}
    assert int(re.sub(r"\D", "", name.partition("-")[0]) or 3) == made["zero_optimization"]["stage"]
    assert json.loads(json.dumps(made)) == made


def test_nvme_offload_goes_to_the_hosts_disk() -> None:
    made = config("zero3-nvme", {})["zero_optimization"]
    assert made["offload_optimizer"]["nvme_path"] == made["offload_param"]["nvme_path"] == "/nvme"
    own = {"zero_optimization": {"offload_param": {"nvme_path": "/other"}}}
    made = config("zero3-nvme", own)["zero_optimization"]
    assert made["offload_param"]["nvme_path"] == "/other"


@given(st.integers(1, 2**32), st.sampled_from([None, 1000, 2**31]))
def test_buffers_for_nvme_hold_a_part_of_the_largest_tensor_unless_the_user_sized_them(
    part: int, own: int | None
) -> None:
    overrides = {"zero_optimization": {"offload_param": {"buffer_size": own}}} if own else {}
    made = config("zero3-nvme", overrides, largest=8 * part)["zero_optimization"]["offload_param"]
    assert made["buffer_size"] == own if own else made["buffer_size"] >= max(part, deepspeed_config.BUFFER)
    assert made["buffer_size"] < max(part, deepspeed_config.BUFFER) + 2**20 or own
    over = {"zero_optimization": {"offload_param": {"device": "nvme"}}}
    made = config("zero3-offload", over, largest=8 * part)
    assert made["zero_optimization"]["offload_param"]["buffer_size"] >= part
    made = config("zero3-nvme", overrides)
    assert made["zero_optimization"]["offload_param"]["buffer_size"] == (own or deepspeed_config.BUFFER)


def test_the_users_keys_win() -> None:
    overrides = {"gradient_clipping": 0.5, "zero_optimization": {"overlap_comm": False}, "new": [1]}
    before = copy.deepcopy(overrides)
    inputs = deepspeed_config.Inputs(overrides, "fp16", slots=8)
    made = deepspeed_config.make(inputs, "zero2", 1, NUMBERS)
    assert made["gradient_clipping"] == 0.5
    assert made["zero_optimization"]["overlap_comm"] is False
    assert made["zero_optimization"]["stage"] == 2
    assert made["new"] == [1]
    assert made["fp16"] == {"enabled": True}
    assert "bf16" not in made
    assert overrides == before


@pytest.mark.parametrize(("nodes", "size"), [(1, 1), (4, 8)])
def test_second_copy_of_the_weights_is_within_a_host(nodes: int, size: int) -> None:
    made = config("zeropp", {}, hosts=nodes)
    assert made["zero_optimization"]["zero_hpz_partition_size"] == size


@pytest.mark.parametrize("name", deepspeed_config.presets())
def test_what_is_made_is_the_callers_own(name: str) -> None:
    overrides = {"zero_optimization": {"offload_param": {"device": "cpu"}}}
    first = config(name, overrides)
    first["zero_optimization"]["offload_param"]["device"] = first["zero_optimization"]["stage"] = "changed"
    assert overrides == {"zero_optimization": {"offload_param": {"device": "cpu"}}}
    assert "changed" not in json.dumps(config(name, overrides))


@pytest.mark.deepspeed
@pytest.mark.parametrize("name", deepspeed_config.presets())
def test_deepspeed_takes_it(name: str) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    ours = deepspeed_config.batch(2, None, 6, 1)
    inputs = deepspeed_config.Inputs({}, "bf16", slots=1, nvme="/nvme")
    made = deepspeed_config.make(inputs, name, 1, ours)
    theirs = DeepSpeedConfig(made)
    assert theirs.zero_config.stage == made["zero_optimization"]["stage"]
    assert theirs.train_batch_size == ours.train
    assert theirs.train_micro_batch_size_per_gpu == ours.micro
    assert theirs.gradient_accumulation_steps == ours.accumulation

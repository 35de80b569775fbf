"""Each feature of DeepSpeed that sizing does not count is named where a job turns it on (more: test_learning.py)."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.planning import fit, unestimated
from launcher.sizing import models, traffic
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path


def estimate(config: dict[str, Any]) -> fit.Estimate:
    """The sample's estimate, as if DeepSpeed's configuration were this."""
    found = samples.decided().estimate
    assert found is not None
    return found._replace(evaluation=found.evaluation._replace(config=config))


@pytest.mark.parametrize("path", [path for path, _ in unestimated.UNCOUNTED], ids=".".join)
@pytest.mark.parametrize(
    ("value", "named"), [(True, 1), ({"enabled": True}, 1), (2, 1), (False, 0), (None, 0), (1, 0)]
)
@pytest.mark.heavy
def test_what_is_not_counted_is_named_where_it_is_on(
    path: tuple[str, ...], value: object, named: int
) -> None:
    config = functools.reduce(lambda inner, key: {key: inner}, reversed(path), value)
    assert isinstance(config, dict)
    notes = list(unestimated.uncounted(estimate(config)))
    assert len(notes) == named
    assert all(note.startswith(f"deepspeed.{'.'.join(path)} is not in the estimate") for note in notes)


def test_an_estimate_that_leaves_nothing_out_has_no_notes() -> None:
    assert list(unestimated.uncounted(None)) == []
    assert list(unestimated.uncounted(estimate({}))) == []
    assert unestimated.partial(None) == unestimated.partial(estimate({})) == ""


def test_a_model_with_code_of_its_own_is_named(tmp_path: Path) -> None:
    config = {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Config"},
        "architectures": ["MineForCausalLM"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    job = samples.job(model=str(tmp_path), workload="pretrain")
    assert "the family 'mine'" in unestimated.own_code(job, None)
    assert "the family 'mine'" in unestimated.own_code(
        samples.job(model="owner/mine", workload="finetune"), models.Found(config, "the hub")
    )
    assert not unestimated.own_code(samples.job(model=str(tmp_path), workload="./train.py"), None)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert not unestimated.own_code(job, None), "Transformers takes its own code"
    assert not unestimated.own_code(samples.job(model="byte-gpt", workload="pretrain"), None)


CLUSTER: dict[str, Any] = {"gpu": "h100-80gb", "slots": 8, "fabric": "infiniband", "memory": "2000GB"}
CLUSTER |= {"bandwidth": 400, "nvme": {"path": "/nvme", "size": "10TB"}}
HERE, DISK = {"device": "cpu"}, {"device": "nvme", "nvme_path": "/nvme"}


def planned(preset: str, zero: dict[str, Any], **fields: Any) -> Any:
    """The plan of two hosts of H100 with these keys of ZeRO's section."""
    keys = {"preset": preset, "zero_optimization": zero, **fields.pop("keys", {})}
    job = {"model": "llama-2-7b", "nodes": 2, "batch": {"micro": 1}, "deepspeed": keys, **fields}
    return samples.decided({**job, "args": {"seq-length": 4096, **fields.get("args", {})}}, **CLUSTER)


def figures(plan: Any) -> dict[str, float]:
    """What a configuration can change of an estimate."""
    assert plan.estimate
    found = plan.estimate.evaluation
    memory, moved = found.memory, traffic.collectives(plan.estimate.model, found.settings, found.setup)
    return {
        "activations": memory.moments["forward"].activations,
        "parameters": memory.moments["end"].parameters,
        "optimizer": memory.moments["step"].optimizer,
        "gradients": memory.moments["step"].gradients,
        "host": memory.host.optimizer + memory.host.parameters,
        "rounding": memory.host.rounding,
        "nvme": memory.nvme,
        "fabric": traffic.volume(moved, "fabric", 8),
        "within": traffic.volume([c for c in moved if c.scope == "host"], "slot"),
    }


ZEROPP: dict[str, Any] = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0}
UNROUNDED = {"PYTORCH_ALLOC_CONF": "pinned_max_round_threshold_mb:64"}


@pytest.mark.parametrize(
    ("preset", "without", "zero", "fields", "changed"),
    [
        ("zero1", {}, {}, {"args": {"sequence-parallel": 4}}, "activations- within+"),
        ("zero3", ZEROPP, {"zero_quantized_weights": True}, {}, "fabric-"),
        ("zero3", ZEROPP, {"zero_quantized_gradients": True}, {}, "fabric-"),
        ("zero3", ZEROPP, {"zero_hpz_partition_size": 8}, {}, "fabric- within+ parameters+"),
        ("zero2", {}, {"offload_optimizer": HERE}, {}, "optimizer- gradients- host+ rounding+"),
        ("zero3", {}, {"offload_optimizer": HERE, "offload_param": HERE}, {}, "parameters- host+ rounding+"),
        ("zero3", {}, {"offload_optimizer": {**HERE, "ratio": 0.5}}, {}, "optimizer- host+"),
        (
            "zero2",
            {"offload_optimizer": HERE},
            {"offload_optimizer": {**HERE, "pin_memory": False}},
            {},
            "rounding-",
        ),
        ("zero2", {"offload_optimizer": HERE}, {}, {"env": UNROUNDED}, "rounding-"),
        ("zero3", {}, {"offload_optimizer": DISK, "offload_param": DISK}, {}, "nvme+ optimizer- parameters-"),
    ],
)
def test_what_a_configuration_changes_is_estimated(
    preset: str, without: dict[str, Any], zero: dict[str, Any], fields: dict[str, Any], changed: str
) -> None:
    before = figures(planned(preset, without))
    plan = planned(preset, {**without, **zero}, **fields)
    after = figures(plan)
    for figure in changed.split():
        name, more = figure[:-1], figure.endswith("+")
        assert (after[name] > before[name]) == more != (after[name] < before[name]), figure
    assert not [note for note in plan.notes if "estimate" in note]


@pytest.mark.parametrize(
    ("preset", "zero", "keys", "note"),
    [
        ("zero2-offload", {"zenflow": {"topk_ratio": 0.1}}, {}, "zenflow is not in the estimate"),
        (
            "zero3-offload-optimizer",
            {"offload_optimizer": {**HERE, "super_offload": True}},
            {},
            "super_offload",
        ),
        ("zero3", {}, {"compile": {"deepcompile": True}}, "deepcompile is not in the estimate"),
        ("zero3", {"zero_quantized_nontrainable_weights": True}, {}, "nontrainable_weights is not in the"),
        (
            "zero2",
            {},
            {"communication_data_type": "fp32"},
            "communication_data_type fp32 is not in the estimate",
        ),
    ],
)
def test_what_is_not_estimated_is_said_of_a_plan(
    preset: str, zero: dict[str, Any], keys: dict[str, Any], note: str
) -> None:
    args = {"compile": "inductor"} if "compile" in keys else {}
    workload = "finetune" if "zenflow" in zero else "pretrain"
    plan = planned(preset, zero, keys=keys, args=args, workload=workload)
    assert any(note in told for told in plan.notes)


@pytest.mark.parametrize(("size", "said"), [(8, True), (-1, False)])
def test_groups_of_mics_are_said_where_deepspeed_still_has_them(size: int, said: bool) -> None:
    told = planned("zero3", {"mics_shard_size": size}).notes
    assert any("mics_shard_size is not in the estimate" in note for note in told) == said


def test_gradients_that_are_sent_as_they_are_need_no_word() -> None:
    told = planned("zero2", {}, keys={"communication_data_type": "bf16"}).notes
    assert not any("communication_data_type" in note for note in told)

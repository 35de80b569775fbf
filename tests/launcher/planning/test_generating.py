"""Models that only generate: what they take, how many texts fit, and what is said of one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import PlanError
from launcher.planning import generating
from launcher.sizing.inference import Split
from tests import samples

if TYPE_CHECKING:
    from launcher.planning.plan import Plan
    from launcher.sizing.inference import Inference

CLUSTER: dict[str, Any] = {"gpu": "h100-80gb", "slots": 8, "fabric": "infiniband", "memory": "2000GB"}
SERVED: dict[str, Any] = {"max-length": 8192, "engine-options": ["max-num-seqs=64"]}
ENDS = 2 * 128256 * 8192 + 8192  # embedding, head and last norm of llama-3.1-70b
PSI = 70_553_706_496


def found(workload: str, preset: str = "zero0", slots: int = 8, **args: Any) -> Inference:
    more = {"prompts": "/data/p.jsonl"} if workload == "generate" else {}
    fields = {"model": "llama-3.1-70b", "workload": workload, "deepspeed": preset, "batch": {"micro": 16}}
    plan = samples.decided({**fields, "args": {**more, **args}}, **CLUSTER | {"slots": slots})
    assert plan.inference is not None
    return plan.inference


def test_vllm_splits_all_weights_and_keys_over_a_hosts_ranks() -> None:
    one = found("serve", **SERVED)
    assert one.weights == pytest.approx(2 * PSI / 8, rel=1e-6)
    # layers, tokens, one of eight heads, keys and values, bf16
    assert one.text == 80 * 8192 * 1 * 2 * 128 * 2
    assert one.asked.texts == 64
    assert one.room is not None
    assert one.texts == one.room // one.text > 64


def test_the_engines_own_share_and_number_of_texts_are_taken() -> None:
    given: dict[str, Any] = {"engine-options": ["gpu-memory-utilization=.1", "max_num_seqs=3"]}
    asked = found("serve", **given).asked
    assert (asked.share, asked.texts) == (0.1, 3)


def test_a_share_that_no_card_has_is_refused() -> None:
    given: dict[str, Any] = {"engine-options": ["gpu-memory-utilization=2"]}
    with pytest.raises(PlanError, match="gpu-memory-utilization: a number above 0 and up to 1 is expected"):
        found("serve", **given)


def test_more_ranks_than_heads_of_keys_keep_one_each() -> None:
    assert found("serve", slots=16, **SERVED).text == found("serve", **SERVED).text


def test_deepspeed_keeps_embedding_and_head_whole() -> None:
    assert found("generate", engine="tensor-parallel").weights == pytest.approx(
        2 * ((PSI - ENDS) / 8 + ENDS), rel=1e-6
    )


def test_zero_inference_partitions_or_offloads() -> None:
    assert found("generate", "zero3").weights == pytest.approx(2 * PSI / 8, rel=1e-6)
    assert found("generate", "zero3-offload").weights == 0


def test_offloaded_weights_are_the_hosts() -> None:
    assert found("generate", "zero3-offload").per_host == 2 * PSI
    assert found("generate", "zero3").per_host == 0


def offloaded(nodes: int = 1, deepspeed: object = "zero3-offload", **cluster: Any) -> Plan:
    fields = {"model": "llama-3.1-70b", "workload": "generate", "args": {"prompts": "/data/p.jsonl"}}
    more = {"deepspeed": deepspeed, "batch": {"micro": 1}, "nodes": nodes}
    return samples.decided({**fields, **more}, **CLUSTER | {"slots": 1} | cluster)


def test_a_host_too_small_for_offloaded_weights_is_said_with_the_hosts_that_are_enough() -> None:
    small: dict[str, Any] = {"memory": "80GB"}
    plan = offloaded(**small)
    assert plan.inference is not None
    assert plan.inference.shortfalls == ("needs 141.1 GB per host, 80.0 GB available",)
    refusal = str(generating.refusal(plan.inference, plan.job, plan.cluster))
    assert "needs 141.1 GB per host" in refusal
    assert "use --set nodes=2" in refusal
    two = offloaded(nodes=2, **small).inference
    assert two is not None
    assert two.fits
    one = offloaded(**small, hosts=1)
    assert one.inference is not None
    assert "nodes=" not in str(generating.refusal(one.inference, one.job, one.cluster))


def test_offload_to_a_host_without_room_is_no_advice() -> None:
    plan = offloaded(deepspeed="zero0", memory="80GB", hosts=1)
    assert plan.inference is not None
    assert "offload" not in str(generating.refusal(plan.inference, plan.job, plan.cluster))


def test_weights_on_nvme_need_its_room() -> None:
    disk: dict[str, Any] = {"nvme": {"path": "/nvme", "size": "100GB"}}
    split = offloaded(deepspeed="zero3-nvme", **disk).inference
    assert split is not None
    assert split.split.offload == "nvme"
    assert split.shortfalls == ("needs 141.1 GB per host's NVMe, 100.0 GB available",)


def test_stage_and_offload_are_the_configurations_not_the_presets() -> None:
    away = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}}
    assert split_of(away) == Split(partitioned=8, offload="cpu")
    kept = {"preset": "zero3-offload", "zero_optimization": {"offload_param": {"device": "none"}}}
    assert split_of(kept) == Split(partitioned=8)
    assert split_of({"preset": "zero3", "zero_optimization": {"stage": 0}}) == Split()


def split_of(deepspeed: object) -> Split:
    inference = offloaded(deepspeed=deepspeed, slots=8).inference
    assert inference is not None
    return inference.split


@pytest.mark.parametrize(
    ("workload", "slots", "args", "message"),
    [
        ("serve", 1, {"max-length": 8192}, "--set nodes=3"),
        (
            "generate",
            8,
            {"engine": "transformers"},
            "--set args.engine=tensor-parallel --set deepspeed=zero0, or",
        ),
        ("generate", 8, {"engine": "tensor-parallel", "max-new-tokens": 100_000}, "--set batch.micro="),
    ],
)
def test_one_that_does_not_fit_is_refused_with_what_helps(
    workload: str, slots: int, args: dict[str, Any], message: str
) -> None:
    one = found(workload, slots=slots, **args)
    assert not one.fits
    more = {"prompts": "/data/p.jsonl"} if workload == "generate" else {}
    fields = {"model": "llama-3.1-70b", "workload": workload, "deepspeed": "zero0", "batch": {"micro": 16}}
    job = samples.job(**fields, args={**more, **args})
    refusal = generating.refusal(one, job, samples.cluster(**CLUSTER | {"slots": slots}))
    assert "llama-3.1-70b does not fit: needs" in str(refusal)
    assert message in str(refusal)


def test_options_that_change_what_weights_take_are_said() -> None:
    job = samples.job(model="llama-3.1-70b", workload="serve", args={"engine-options": ["quantization=fp8"]})
    none, reason = generating.estimate_or_reason(job, samples.cluster(**CLUSTER))
    assert none is None
    assert reason == "args.engine-options quantization changes what the model takes, which is not estimated"

"""Models that only generate: what they take, how many texts fit, and what is said of one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from launcher.planning import generating
from tests import samples

if TYPE_CHECKING:
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


def test_more_ranks_than_heads_of_keys_keep_one_each() -> None:
    assert found("serve", slots=16, **SERVED).text == found("serve", **SERVED).text


def test_deepspeed_keeps_embedding_and_head_whole() -> None:
    assert found("generate", engine="tensor-parallel").weights == pytest.approx(
        2 * ((PSI - ENDS) / 8 + ENDS), rel=1e-6
    )


def test_zero_inference_partitions_or_offloads() -> None:
    assert found("generate", "zero3").weights == pytest.approx(2 * PSI / 8, rel=1e-6)
    assert found("generate", "zero3-offload").weights == 0


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

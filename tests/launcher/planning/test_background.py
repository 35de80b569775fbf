"""`checkpoint.async`: what it takes of host memory is planned and refused, and so is what cannot do it."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import PlanError
from launcher.rendering import command
from tests import samples

GPU = {"gpu": "h100-80gb", "slots": 8, "fabric": "infiniband", "image": "r/i:1", "memory": "2000GB"}
LLAMA: dict[str, Any] = {
    "model": "llama-2-7b",
    "nodes": 2,
    "deepspeed": "zero2",
    "args": {"seq-length": 2048, "activation-checkpointing": True},
}
ASYNC = {"checkpoint": {"async": True}}


def test_the_ranks_are_told() -> None:
    told = command.ranks(samples.decided(ASYNC), "/run", "/run/ds_config.json")
    assert "--checkpoint-async" in told
    for job in ({}, {"checkpoint": {"async": False}}):
        assert not any("async" in word for word in command.ranks(samples.decided(job), "/run", "/ds.json"))


def test_a_host_without_room_for_the_copies_is_refused_with_what_would_do() -> None:
    made = samples.decided({**LLAMA, **ASYNC}, **GPU).estimate
    assert made is not None
    assert made.fits
    host = made.evaluation.memory.host
    assert host.copies > 12 * made.model.trained / 2, (
        "half of the optimizer's states are on the first of two hosts"
    )
    tight = {**GPU, "memory": f"{(host.total - host.copies // 2) // 10**6}MB"}
    plain = samples.decided(LLAMA, **tight).estimate
    assert plain is not None
    assert plain.fits
    refused = samples.decided({**LLAMA, **ASYNC}, **tight).estimate
    assert refused is not None
    assert not refused.fits
    assert "per host" in str(refused.refusal())
    assert "--set checkpoint.async=false" in str(refused.refusal())


def test_a_rank_without_a_gpu_has_its_copy_in_its_share_of_the_memory() -> None:
    cpu = {"memory": "64GB", "slots": 2}
    job = {"model": "gpt2", "deepspeed": "zero2", "args": {"seq-length": 128}}
    plain, copied = (samples.decided({**job, **more}, **cpu).estimate for more in ({}, ASYNC))
    assert plain is not None
    assert copied is not None
    # in fp32 a rank has half of 12 bytes a parameter, and rank 0 the weights as well
    grown = copied.evaluation.memory.slot.total - plain.evaluation.memory.slot.total
    assert grown == pytest.approx((12 / 2 + 4) * plain.model.trained, rel=0.01)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"workload": "/data/train.py"}, "a program of your own writes its checkpoints itself; leave it out"),
        ({"workload": "allreduce"}, "'allreduce' writes no checkpoints; leave it out"),
        (
            {"deepspeed": "zero3-nvme"},
            "DeepSpeed copies an optimizer on NVMe itself, and training waits; leave it out, or offload to the cpu",
        ),
    ],
)
def test_what_cannot_do_it_is_refused(job: dict[str, Any], message: str) -> None:
    cluster = {**GPU, "nvme": {"path": "/nvme", "size": "7TB"}}
    with pytest.raises(PlanError) as refused:
        samples.decided({**job, **ASYNC}, **cluster)
    assert f"checkpoint.async: {message}" in str(refused.value) or message in str(refused.value)
    samples.decided(job, **cluster)


def test_copies_of_a_size_that_is_not_known_are_named() -> None:
    job = {"model": "/models/unknown", **ASYNC}
    assert any(note.startswith("checkpoint.async: the copies") for note in samples.decided(job).notes)
    assert not any("checkpoint.async" in note for note in samples.decided(ASYNC).notes)

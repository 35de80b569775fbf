"""Ranks that share samples (DeepSpeed's Ulysses): the batch counts groups, memory a share of the tokens."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import PlanError
from launcher.files import load
from launcher.planning import plan
from launcher.reports import tables
from tests import samples


def planned(shared: int, slots: int = 8, nodes: int = 2, **fields: Any) -> plan.Plan:
    args = {"seq-length": 2048, "sequence-parallel": shared, **fields.pop("args", {})}
    job = samples.job(**{"model": "llama-7b", "nodes": nodes, "deepspeed": "zero3", "args": args, **fields})
    return plan.make(load.Loaded(job, samples.cluster(slots=slots, gpu="h100-80gb")), samples.SITE)


def test_the_batch_counts_groups() -> None:
    made = planned(4, batch={"micro": 1, "global": 8})
    assert (made.batch.micro, made.batch.accumulation, made.batch.train) == (1, 2, 8)
    assert made.config["train_batch_size"] == 8
    assert "micro 1 × accumulation 2 × 4 groups of 4 ranks = 8 samples per step" in tables.plan(made)
    assert planned(1, batch={"micro": 1, "global": 32}).batch.accumulation == 2


def test_a_rank_holds_its_share_of_the_tokens() -> None:
    alone, shared = (planned(n, batch={"micro": 1}).estimate for n in (1, 8))
    assert alone
    assert shared
    whole, part = (one.evaluation.memory.slot for one in (alone, shared))
    assert part.activations == pytest.approx(whole.activations / 8, rel=0.02)
    assert part.parameters == whole.parameters


@pytest.mark.parametrize(
    ("shared", "fields", "message"),
    [
        (3, {}, "args.sequence-parallel 3 does not divide the 16 ranks; use 1"),
        (4, {"args": {"seq-length": 2046}}, "does not divide the args.seq-length 2046; use 2"),
        (16, {"nodes": 1}, "args.sequence-parallel 16 does not divide the 8 ranks; use 8"),
        (
            2,
            {"model": "gpt2", "args": {"seq-length": 64}},
            "Ulysses does not support gpt2; use a model of LLaMA's kind",
        ),
        (
            2,
            {"model": "gpt2-xl", "args": {"seq-length": 64}},
            "does not divide the 25 attention heads of gpt2-xl",
        ),
        (
            8,
            {"batch": {"micro": 1, "global": 3}},
            "batch.global 3 does not divide by micro 1 × world size 2 = 2",
        ),
    ],
)
def test_what_cannot_be_shared(shared: int, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as told:
        planned(shared, **{"batch": {"micro": 1}, **fields})
    assert message in str(told.value)


def test_a_length_that_is_left_out_is_the_workloads_own() -> None:
    with pytest.raises(PlanError, match=r"does not divide the args\.seq-length 256"):
        planned(3, slots=3, batch={"micro": 1}, args={"seq-length": None})


def test_the_whole_sequence_counts_for_the_positions() -> None:
    with pytest.raises(PlanError, match="length 8192 is more than the"):
        planned(8, batch={"micro": 1}, args={"seq-length": 8192})

"""Programs of one's own that have DeepSpeed split samples or models: what batch sizes count, and what is estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import PlanError
from tests import samples

if TYPE_CHECKING:
    from launcher.planning import plan

CLUSTER: dict[str, Any] = {"gpu": "h100-80gb", "slots": 8, "fabric": "infiniband", "memory": "2000GB"}


def planned(deepspeed: dict[str, Any], workload: str = "/data/train.py", **fields: Any) -> plan.Plan:
    own = {"model": "llama-2-7b", "workload": workload, "nodes": 2, "batch": {"micro": 1, "global": 16}}
    args = {"seq-length": 4096}
    job = {**own, "args": args, "deepspeed": {"preset": "zero1", **deepspeed}, **fields}
    return samples.decided(job, **CLUSTER)


def test_ranks_that_share_samples_have_a_part_of_the_tokens() -> None:
    alone, shared = planned({}), planned({"sequence_parallel_size": 4})
    assert (alone.batch.accumulation, shared.batch.accumulation) == (1, 4)
    assert alone.estimate
    assert shared.estimate
    assert shared.estimate.evaluation.setup.sequence * 4 == alone.estimate.evaluation.setup.sequence


@pytest.mark.parametrize(
    ("keys", "accumulation", "reason"),
    [
        (
            {"tensor_parallel": {"autotp_size": 8}},
            8,
            "deepspeed.tensor_parallel.autotp_size 8: AutoTP splits layers over ranks, which is not estimated",
        ),
        (
            {"pipeline": {"stages": 4}},
            4,
            "deepspeed.pipeline.stages 4: pipeline parallelism gives ranks different layers, which is not estimated",
        ),
        ({"pipeline": {"stages": 2}, "tensor_parallel": {"autotp_size": 2}}, 4, "autotp_size 2: AutoTP"),
        ({"tensor_parallel": {"autotp_size": 1}, "pipeline": {"stages": "auto"}}, 1, ""),
    ],
)
def test_a_model_in_parts_is_not_estimated_as_if_it_were_whole(
    keys: dict[str, Any], accumulation: int, reason: str
) -> None:
    found = planned(keys)
    assert found.batch.accumulation == accumulation
    # DeepSpeed would compare the whole batch with all ranks, unless the program gives it a unit of its own
    assert ("train_batch_size" in found.config) == (not reason)
    assert found.config["gradient_accumulation_steps"] == accumulation
    assert (found.estimate is None) == bool(reason)
    assert any("which is not estimated" in note and reason in note for note in found.notes) == bool(reason)


def test_a_model_that_would_not_fit_whole_is_not_refused() -> None:
    assert planned({"tensor_parallel": {"autotp_size": 8}}, model="llama-3.1-70b").estimate is None
    whole = planned({}, model="llama-3.1-70b").estimate
    assert whole is not None
    assert not whole.fits


def test_ranks_that_do_not_divide_are_told_where_it_is_written() -> None:
    with pytest.raises(PlanError, match="autotp_size 3: 16 ranks do not divide into groups of 3"):
        planned({"tensor_parallel": {"autotp_size": 3}}, batch={"micro": 1})


def test_our_own_workloads_take_none_of_them() -> None:
    with pytest.raises(PlanError, match="is tensor parallelism, which workload 'pretrain' does not do"):
        planned({"tensor_parallel": {"autotp_size": 2}}, workload="pretrain")

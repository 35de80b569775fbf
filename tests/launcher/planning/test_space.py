"""The candidates of a tuning run: what a job and its hosts can have, the global batch kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.deepspeed import config
from launcher.errors import PlanError, SpecError
from launcher.planning import fit, space
from tests import samples

GPUS: dict[str, Any] = {"slots": 8, "fabric": "infiniband", "gpu": "h100-80gb", "image": "r/i"}


def names(found: list[space.Candidate], field: str) -> set[Any]:
    return {getattr(candidate, field) for candidate in found}


def test_ranks_without_gpus_have_no_offload_and_no_zeropp() -> None:
    found = space.candidates(samples.job(batch={"micro": 2, "global": 16}), samples.cluster(), {})
    assert names(found, "preset") == {"zero1", "zero2", "zero3"}
    assert names(found, "micro") == {1, 2, 4, 8}
    assert names(found, "checkpointing") == {False, True}


def test_zeropp_is_for_several_hosts_and_nvme_for_those_that_have_disks() -> None:
    job = samples.job(model="llama-2-7b", batch={"micro": 1, "global": 64}, nodes=2)
    found = space.candidates(job, samples.cluster(**GPUS), {})
    assert "zeropp" in names(found, "preset")
    assert "zero3-nvme" not in names(found, "preset")
    alone = samples.job(model="llama-2-7b", batch={"micro": 1, "global": 64})
    assert "zeropp" not in names(space.candidates(alone, samples.cluster(**GPUS), {}), "preset")


def test_a_stage_that_the_job_writes_stays() -> None:
    job = samples.job(deepspeed={"zero_optimization": {"stage": 2}})
    assert names(space.candidates(job, samples.cluster(), {}), "preset") == {"zero2"}


def test_a_second_copy_of_weights_is_for_stage_3() -> None:
    asked = space.parse(["preset=zero2,zero3", "hpz=true,false", "micro=1", "checkpointing=false"])
    found = space.candidates(samples.job(), samples.cluster(), asked)
    assert [(c.preset, c.hpz) for c in found] == [("zero3", True), ("zero3", False)]


@given(
    micro=st.integers(1, 16),
    accumulation=st.integers(1, 64),
    tried=st.lists(st.integers(1, 64), min_size=1, max_size=6),
)
def test_the_global_batch_is_kept(micro: int, accumulation: int, tried: list[int]) -> None:
    job = samples.job(batch={"micro": micro, "accumulation": accumulation})
    cluster = samples.cluster()
    train = fit.batch(job, cluster).train
    for candidate in space.candidates(job, cluster, {}):
        assert fit.batch(space.applied(candidate, job, train), cluster).train == train
    for number in tried:
        other = space.applied(space.Candidate("zero1", number), job, train)
        if train % (number * 2) == 0:
            assert fit.batch(other, cluster).train == train


def test_a_micro_batch_that_does_not_divide_is_no_obstacle() -> None:
    job = samples.job(batch={"micro": 6, "global": 8})
    assert names(space.candidates(job, samples.cluster(), {}), "micro") == {1}
    with pytest.raises(PlanError, match="global 9 does not divide"):
        space.candidates(samples.job(batch={"micro": 1, "global": 9}), samples.cluster(), {})


def test_a_candidate_becomes_configuration_and_fields_alike() -> None:
    job = samples.job(
        deepspeed={"preset": "zero1", "zero_optimization": {"round_robin_gradients": True}},
        batch={"micro": 1, "accumulation": 8},
    )
    candidate = space.Candidate("zero3", 2, checkpointing=True, overlap=False, bucket=50_000_000, hpz=True)
    applied = space.applied(candidate, job, 16)
    keys = {
        "overlap_comm": False,
        "reduce_bucket_size": 50_000_000,
        "stage3_prefetch_bucket_size": 50_000_000,
        "zero_hpz_partition_size": "slots",
    }
    assert applied.deepspeed.overrides["zero_optimization"] == {"round_robin_gradients": True, **keys}
    assert applied.args == {"activation-checkpointing": True}
    changed: dict[tuple[str, ...], Any] = {
        ("batch", "micro"): 2,
        ("batch", "accumulation"): 4,
        ("deepspeed", "preset"): "zero3",
        ("args", "activation-checkpointing"): True,
    }
    changed |= {("deepspeed", "zero_optimization", key): value for key, value in keys.items()}
    assert space.changes(candidate, job, 16, 2) == changed
    assert candidate.name == "zero3, recomputation, overlap off, buckets 5e+07, hpZ, micro 2"


def test_what_does_the_same_with_less_work() -> None:
    candidate = space.Candidate("zero3-offload", 2, checkpointing=True)
    presets = ("zero3", "zero3-offload-optimizer", "zero3-offload")
    every = {space.Candidate(p, 2, checkpointing=c) for p in presets for c in (True, False)}
    assert candidate.less == every - {candidate}
    assert space.Candidate("zero1", 2, checkpointing=False).less == set()
    assert space.Candidate("zero1", 2).less == set()
    assert {name for names in space._LESS.values() for name in names} | set(space._LESS) <= set(
        config.presets()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["micr=1"], "unknown key 'micr'; did you mean 'micro'?"),
        (["micro=1.5"], "'1.5' is no whole number of at least 1"),
        (["micro=nan"], "'nan' is no whole number"),
        (["micro="], "'' is no whole number"),
        (["micro"], "no values"),
        (["preset=zero9"], "there is no preset 'zero9'; did you mean"),
        (["overlap=yes"], "'yes' is neither true nor false"),
        (["micro=1", "micro=2"], "micro is given twice"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(SpecError, match=said.replace("?", r"\?")):
        space.parse(words)


def test_values_are_read_once_each() -> None:
    assert space.parse(["buckets=5e7,50000000,1e8", "overlap=true"]) == {
        "buckets": (50_000_000, 100_000_000),
        "overlap": (True,),
    }


def test_too_many_candidates_are_refused() -> None:
    asked = {"micro": tuple(range(1, 2000))}
    with pytest.raises(SpecError, match="are more than 1000"):
        space.candidates(samples.job(), samples.cluster(), asked)


def test_presets_of_the_space_are_those_that_there_are() -> None:
    assert space.parse([f"preset={','.join(config.presets())}"])["preset"] == config.presets()

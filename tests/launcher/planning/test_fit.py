"""The configuration that is estimated is the one that is written, for every preset and every key that a job may set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.deepspeed import config, keys
from launcher.errors import PlanError
from launcher.planning import capacity, fit
from launcher.sizing import memory, models, setup, traffic, zero
from launcher.sizing.architecture import Architecture
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

MODEL = models.load("llama-2-7b")
SEQUENCE = 2048
CLUSTER: dict[str, Any] = {
    "gpu": "h100-80gb",
    "slots": 8,
    "fabric": "infiniband",
    "memory": "2000GB",
    "bandwidth": 3200,
    "nvme": {"path": "/nvme", "size": "7TB"},
}
VALUES: dict[str, list[Any]] = {
    "bool": [True, False],
    "int": [1, 4_000_000],
    "number": [0.5, 2e6],
    "auto": ["auto"],
}


def leaves(kinds: Any, path: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Every key of DeepSpeed alone, with values of its kind."""
    if isinstance(kinds, dict):
        for key, kind in kinds.items():
            yield from ({key: below} for below in leaves(kind, (*path, key)))
        return
    values = list(kinds) if isinstance(kinds, list) else VALUES.get(kinds, [])
    yield from [*values, *(["auto"] if path in (*keys.AUTO, *keys.OURS) else [])]


OVERRIDES: list[dict[str, Any]] = [
    {},
    *leaves(keys.known()),
    *({"zero_optimization": {"stage": stage}} for stage in range(4)),
    *({"zero_optimization": {"zero_hpz_partition_size": size}} for size in (1, 8, "slots")),
    *({"optimizer": {"type": name}} for name in ("Adam", "Lion", "Muon")),
    {"optimizer": {"type": "AdamW", "params": {"torch_adam": True}}},
    {"data_types": {"grad_accum_dtype": "fp32"}},
    {"bf16": {"enabled": "auto", "immediate_grad_update": True}},
    {"zero_optimization": {"offload_optimizer": {"device": "cpu"}, "reduce_bucket_size": 5e8}},
    {"zero_optimization": {"offload_param": {"device": "nvme"}, "stage": 3}},
]


def planned(overrides: dict[str, Any], nodes: int, **job: Any) -> Plan | None:
    """The plan of these overrides; None where the files or a rule refuse them."""
    workload = "finetune" if '"auto"' in json.dumps(overrides) else "pretrain"
    if list(keys.problems({k: v for k, v in overrides.items() if k != "preset"}, workload)):
        return None
    length = {"seq-length": SEQUENCE}
    fields = {"model": "llama-2-7b", "workload": workload, "nodes": nodes, "deepspeed": overrides}
    data = {"data": "/data/a.jsonl"} if workload == "finetune" else {}
    try:
        return samples.decided({**fields, "args": {**length, **data}, **job}, **CLUSTER)
    except PlanError:
        return None


def settings_of(plan: Plan) -> tuple[zero.Zero, setup.Setup]:
    """What the file that is written means for memory and traffic."""
    written = json.loads(json.dumps(plan.config))
    assert isinstance(MODEL, Architecture)
    assert plan.estimate is not None
    return zero.read(zero.filled_by_trainer(written, MODEL.hidden)), setup.Setup(
        world=plan.world_size,
        slots=plan.slots,
        micro=written["train_micro_batch_size_per_gpu"],
        sequence=SEQUENCE,
        checkpointing=plan.estimate.candidate.checkpointing,
        learning=setup.Learning(loss="chunks", masked="each" if plan.job.workload == "finetune" else ""),
    )


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("preset", ["auto", *config.presets()])
def test_the_configuration_estimated_is_the_configuration_written(preset: str, nodes: int) -> None:
    assert isinstance(MODEL, Architecture)
    plans = [planned({"preset": preset, **overrides}, nodes) for overrides in OVERRIDES]
    accepted = [plan for plan in plans if plan]
    assert len(accepted) > 100
    for plan in accepted:
        assert plan.estimate is not None
        settings, there = settings_of(plan)
        evaluation = plan.estimate.evaluation
        assert evaluation.settings == settings, plan.job.deepspeed
        assert evaluation.memory == memory.estimate(MODEL, settings, there), plan.job.deepspeed
        moved = traffic.collectives(MODEL, settings, there)
        assert moved == traffic.collectives(MODEL, evaluation.settings, evaluation.setup)


def test_half_a_section_of_the_job_keeps_the_other_half() -> None:
    written = {"preset": "zero1", "bf16": {"immediate_grad_update": True}}
    plain, more = planned({"preset": "zero1"}, 4), planned(written, 4)
    assert plain is not None
    assert more is not None
    assert plain.estimate is not None
    assert more.estimate is not None
    assert more.config["bf16"] == {"enabled": True, "immediate_grad_update": True}
    assert more.estimate.evaluation.memory == plain.estimate.evaluation.memory


@pytest.mark.parametrize("overrides", OVERRIDES[:1] + OVERRIDES[-8:], ids=str)
def test_what_is_shown_beside_a_plan_is_what_its_preset_would_be(overrides: dict[str, Any]) -> None:
    plan = planned({"preset": "zero1", **overrides}, 2)
    assert plan is not None
    assert plan.estimate is not None
    for other in plan.estimate.compared:
        same = planned({"preset": other.candidate.preset, **overrides}, 2)
        if same:
            assert same.estimate is not None
            assert same.estimate.evaluation == other


@pytest.mark.parametrize("preset", config.presets())
def test_fewer_hosts_and_smaller_models_are_estimated_as_their_own_plans(preset: str) -> None:
    overrides = {"preset": preset, "zero_optimization": {"offload_optimizer": {"pin_memory": False}}}
    batch = {"micro": 1, "global": 64}
    job = samples.job(
        model="llama-2-7b", nodes=8, deepspeed=overrides, batch=batch, args={"seq-length": SEQUENCE}
    )
    try:
        fewest = capacity.fewest(job, samples.cluster(**CLUSTER)).estimate
    except PlanError:
        assert preset == "zero0"
        return
    plan = planned(overrides, fewest.machine.hosts, batch=batch)
    if plan:
        assert plan.estimate == fewest
        assert plan.estimate.evaluation.config == plan.config
    assert fit.estimate(fewest.model, job, samples.cluster(**CLUSTER)).machine.hosts == 8


def test_a_program_without_a_model_is_not_estimated() -> None:
    (note,) = samples.decided({"workload": "/data/own.py", "model": None}).notes
    assert note == "the memory of workload '/data/own.py' is not estimated; `deepspeed: auto` is zero2"


@pytest.mark.parametrize("preset", ["auto", "zero3"])
def test_what_is_not_estimated_is_said_with_a_preset_too(preset: str) -> None:
    (note,) = samples.decided({"workload": "/data/own.py", "deepspeed": preset}).notes
    assert note.startswith("activations are not estimated: no option of the program says how many tokens")

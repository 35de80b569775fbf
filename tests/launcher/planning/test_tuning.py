"""A tuning run's plan: what does not fit is not tried, and all that hosts and reports need is in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import PlanError
from launcher.files import load
from launcher.planning import recorded, tuning, tuning_record
from launcher.rendering import command
from launcher.runs import record
from launcher.schedulers import kubernetes, local, slurm
from tests import samples

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

ALL = tuning.Wishes(space={}, steps=5, limit=600, most=24)
GPUS: dict[str, Any] = {
    "slots": 8,
    "fabric": "infiniband",
    "bandwidth": 3200,
    "gpu": "h100-80gb",
    "image": "r/i",
}


def made(job: dict[str, Any], wishes: tuning.Wishes = ALL, **cluster: Any) -> Plan:
    loaded = load.Loaded(samples.job(**job), samples.cluster(**cluster))
    return tuning.make(loaded, samples.SITE, "", wishes)


def of(plan: Plan) -> tuning_record.Tuning:
    assert plan.tuning
    return plan.tuning


LLAMA: dict[str, Any] = {
    "model": "llama-2-7b",
    "nodes": 4,
    "batch": {"micro": 4, "global": 512},
    "args": {"seq-length": 4096},
}


def test_what_does_not_fit_is_not_tried() -> None:
    plan = made(LLAMA, **GPUS)
    found = of(plan)
    assert all(e.memory is not None and e.memory <= (e.capacity or 0) for e in found.trials)
    left_out = {entry.name: entry for entry in found.left_out}
    assert "GB per GPU" in left_out["zero1, micro 4"].why
    assert left_out["zero1, micro 4"].fits is False
    assert plan.id.startswith("demo-tune-")


def test_the_fastest_by_the_plan_come_first_and_no_more_than_asked() -> None:
    found = of(made(LLAMA, ALL._replace(most=5), **GPUS))
    bounds = [entry.bound or 0.0 for entry in found.trials]
    assert len(bounds) == 5
    others = [entry.bound or 0.0 for entry in found.left_out if "more than --most 5" in entry.why]
    assert others
    assert max(bounds) < 1.2 * min(others)  # stage 3 counts as slower than its bound


def test_trials_know_those_that_do_less() -> None:
    found = of(made({"batch": {"micro": 1, "global": 2}}))
    names = [entry.name for entry in found.trials]
    less = {entry.name: [names[number] for number in entry.less] for entry in found.trials}
    assert less["zero2, recomputation, micro 1"] == ["zero2, micro 1"]
    assert less["zero2, micro 1"] == []


def test_an_empty_space_says_what_removes_each() -> None:
    asked = ALL._replace(space={"preset": ("zero1",), "checkpointing": (False,), "micro": (1, 3)})
    job = {"model": "llama-2-70b", "batch": {"micro": 1, "global": 8}}
    with pytest.raises(PlanError, match="none of 2 candidates can be tried") as caught:
        made(job, asked, **GPUS)
    assert "zero1, micro 1: needs" in str(caught.value)
    assert "does not divide by micro 3" in str(caught.value)


def test_what_is_wrong_with_the_job_is_said_once() -> None:
    with pytest.raises(PlanError) as caught:
        made({"model": None})
    assert [p.message for p in caught.value.problems] == ["workload 'pretrain' needs a model"]


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"workload": "./train.py"}, "a program of one's own"),
        ({"workload": "allreduce", "model": None}, "it trains nothing in steps"),
        ({"workload": "chat_ppo"}, "its steps depend on sampled answers"),
        ({"checkpoint": {"resume": "demo-1"}}, "a trial starts from the beginning"),
    ],
)
def test_jobs_that_cannot_be_tuned(job: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        made(job)


def test_trials_evaluate_export_and_send_nothing() -> None:
    args = {"max-steps": 9, "export": True, "wandb": "p", "eval-every": 5, "lr": 0.1, "tensorboard": True}
    kept = tuning.trial_args("pretrain", args | {"verify-every": 1, "digests": True})
    off = {"eval-every": 0, "verify-every": 0, "export": False, "tensorboard": False, "digests": False}
    assert kept == {"lr": 0.1, "log-every": 1, **off}
    assert "epochs" not in tuning.trial_args("finetune", {"epochs": 2})


def test_a_trial_is_not_profiled_while_it_is_timed() -> None:
    profiled = of(made({"profile": {"flops": 4, "breakdown": True}}))
    assert [entry.config for entry in profiled.trials] == [entry.config for entry in of(made({})).trials]


def test_a_record_can_be_read_back() -> None:
    found = of(tuning.with_job(made({}), "name: demo\n", "/home/a"))
    again = tuning_record.restored(json.loads(json.dumps(found.record)))
    assert again.job == "name: demo\n"
    assert json.loads(json.dumps(again.record)) == json.loads(json.dumps(found.record))
    assert tuning_record.fields(again.trials[0])["batch", "micro"] == found.trials[0].micro


def test_a_rerun_tries_the_same() -> None:
    plan = tuning.with_job(made({}), "name: demo\n", "/home/a")
    again = recorded.plan(json.loads(record.plan_text(plan)), recorded.spellings(plan), samples.SITE)
    assert command.trials(again) == command.trials(plan)
    assert command.ranks(again, "/runs/x", "/runs/x/ds_config.json")[1] == "tune"
    broken = {**json.loads(record.plan_text(plan)), "tuning": {"steps": 5}}
    with pytest.raises(PlanError, match="is not one that this launcher reads: tuning"):
        recorded.plan(broken, {}, samples.SITE)


def test_hosts_get_every_candidate_with_its_words() -> None:
    plan = made({"args": {"seq-length": 64}})
    document = json.loads(command.trials(plan))
    assert (document["steps"], document["limit"]) == (5, 600)
    assert [entry["name"] for entry in document["trials"]] == [entry.name for entry in of(plan).trials]
    assert document["trials"][0]["words"][:2] == ["-m", "workloads.pretrain"]
    assert {"--model=byte-gpt", "--seq-length=64", "--log-every=1"} <= set(document["trials"][0]["words"])
    assert not any(word.startswith(("--run-dir", "--max-steps")) for word in document["trials"][0]["words"])


def test_every_scheduler_starts_one_tuner_a_host() -> None:
    plan = made({"nodes": 2}, fabric="tcp", image="r/i", kubernetes={"runs": "runs"})
    for scheduler, file in ((local, "job.sh"), (slurm, "job.sh"), (kubernetes, "manifest.yaml")):
        text = scheduler.render(plan)[file]
        assert all(word in text for word in ("--processes=host", "--names-from=5", "--stall=off", "tune"))
        assert "trials.json" in text
    assert "trials.json" not in local.render(samples.decided())["job.sh"]

"""The largest model and the fewest hosts fit, the next ones do not, and both say why."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from launcher.cli import main
from launcher.errors import LauncherError, PlanError, SpecError
from launcher.files import load
from launcher.planning import capacity, fit, plan
from launcher.reports import estimate
from launcher.sizing import models
from launcher.sizing.architecture import Architecture
from tests import samples

GPU: dict[str, Any] = {"gpu": "h100-80gb", "slots": 8, "fabric": "infiniband", "memory": "2000GB"}
JOB: dict[str, Any] = {"model": "llama-2-70b", "batch": {"micro": 1}, "args": {"seq-length": 2048}}


def largest(family: str, job: dict[str, Any] | None = None, **cluster: Any) -> capacity.Largest:
    return capacity.largest(
        samples.job(**{**JOB, **(job or {})}), samples.cluster(**{**GPU, **cluster}), family
    )


def fewest(job: dict[str, Any] | None = None, **cluster: Any) -> capacity.Fewest:
    return capacity.fewest(samples.job(**{**JOB, **(job or {})}), samples.cluster(**{**GPU, **cluster}))


def parameters(name: str) -> int:
    found = models.load(name)
    assert isinstance(found, Architecture)
    return found.parameters


def fits(job: dict[str, Any], **cluster: Any) -> bool:
    made = samples.decided({**JOB, **job}, **{**GPU, **cluster})
    assert made.estimate is not None
    return made.estimate.fits


def test_the_largest_model_is_the_last_that_a_plan_takes() -> None:
    found = largest("llama", {"nodes": 2})
    assert fits({"nodes": 2, "model": found.estimate.model.name})
    assert found.too_large
    for model, reason in found.too_large:
        assert not fits({"nodes": 2, "model": model.name})
        assert "needs " in reason
    named = [n for n in capacity.families()["llama"]]
    over = {model.name for model, _ in found.too_large}
    assert over == {n for n in named if parameters(n) > found.estimate.model.parameters}


def test_the_layers_are_the_most_that_fit() -> None:
    found = largest("llama-2", {"deepspeed": {"preset": "zero3"}})
    assert found.layers >= found.estimate.model.layers
    assert found.stretched.layers == found.layers
    assert (
        found.stretched.parameters > found.estimate.model.parameters
        or found.layers == found.estimate.model.layers
    )
    job, cluster = samples.job(**{**JOB, "deepspeed": "zero3"}), samples.cluster(**GPU)
    for layers, expected in ((found.layers, True), (found.layers + 1, False)):
        model = found.estimate.model.with_layers(layers)
        assert fit.estimate(model, job, cluster).fits is expected


@pytest.mark.heavy
def test_more_hosts_take_no_smaller_model() -> None:
    sizes = [
        largest("gpt", {"nodes": n, "args": {"seq-length": 1024}}).estimate.model.parameters for n in (1, 4)
    ]
    assert sizes[0] <= sizes[1]


def test_a_preset_that_the_job_insists_on_holds() -> None:
    found = largest("llama", {"deepspeed": "zero1"})
    assert found.estimate.candidate.preset == "zero1"
    assert found.estimate.model.parameters < largest("llama").estimate.model.parameters


@pytest.mark.parametrize("family", capacity.families())
def test_every_family_has_named_models(family: str) -> None:
    assert all(name == family or name.startswith(f"{family}-") for name in capacity.families()[family])


def test_the_fewest_hosts_are_the_first_that_a_plan_takes() -> None:
    found = fewest({"batch": {"micro": 1, "global": 960}, "deepspeed": "zero3"})
    hosts = found.estimate.machine.hosts
    assert fits({"nodes": hosts, "batch": {"micro": 1, "global": 960}, "deepspeed": "zero3"})
    assert found.batch.train == 960
    assert found.fewer is not None
    assert found.fewer[0] < hosts
    for fewer in range(1, hosts):
        if 960 % (fewer * 8) == 0:
            assert not fits({"nodes": fewer, "batch": {"micro": 1, "global": 960}, "deepspeed": "zero3"})


def test_one_host_is_the_fewest() -> None:
    found = fewest({"model": "gpt2", "args": {"seq-length": 1024}})
    assert (found.estimate.machine.hosts, found.fewer) == (1, None)


def test_one_rank_may_fit_where_two_do_not() -> None:
    """A single rank of ZeRO-3 gathers nothing; two hold the weights of the layers at work besides their shards."""
    job = {"model": "gpt2-xl", "batch": {"micro": 2}, "args": {"seq-length": 1024}}
    job["deepspeed"] = "zero3-offload-optimizer"
    small: dict[str, Any] = {"gpu": "t4-16gb", "slots": 1}
    assert [fits({**job, "nodes": hosts}, **small) for hosts in (1, 2, 3)] == [True, False, True]
    assert fewest(job, **small).estimate.machine.hosts == 1


@pytest.mark.parametrize(
    ("job", "cluster", "message"),
    [
        ({}, {"hosts": 1, "memory": "400GB"}, "it does not even fit on 1 host: needs "),
        ({"workload": "startup"}, {}, "the memory of workload 'startup' is not estimated"),
        (
            {"workload": "finetune", "args": {"lora-rank": 8, "lora-targets": ["w_proj"]}},
            {},
            "args.lora-targets w_proj: no linear layer of the model is called so",
        ),
        ({}, {"gpu": None, "memory": None}, "the cluster file does not say how much memory its hosts have"),
        ({"model": "owner/model"}, {}, "the config.json of a hub's model was not looked for"),
        ({"batch": {"micro": 1, "global": 7}}, {}, "batch.global 7 does not divide"),
    ],
)
def test_no_answer(job: dict[str, Any], cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(LauncherError) as caught:
        fewest(job, **cluster)
    assert str(caught.value).startswith(message)


def test_an_unknown_family() -> None:
    with pytest.raises(SpecError, match="--max-model 'lama' is not a family of models; did you mean 'llama'"):
        largest("lama")


def test_a_family_that_is_too_large_or_too_short() -> None:
    with pytest.raises(PlanError, match=r"not even gpt-6b, the smallest of gpt, fits: args.seq-length 2048"):
        largest("gpt")
    with pytest.raises(
        PlanError, match=r"not even mixtral-8x7b, .* fits: needs .* per GPU, .* available; use more hosts"
    ):
        largest("mixtral", {"deepspeed": "zero0"})


def test_a_plan_refuses_a_sequence_that_is_longer_than_the_model() -> None:
    with pytest.raises(PlanError, match=r"seq-length 4096 is more than the 1024 positions of gpt2"):
        samples.decided({"model": "gpt2", "args": {"seq-length": 4096}}, **GPU)
    assert samples.decided({"model": "gpt2", "args": {"seq-length": 1024}}, **GPU)


# What is printed


def test_output(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "jobs/llama-70b.yaml"]
    assert main.main([*words, "--max-model", "llama"]) == 0
    assert capsys.readouterr().out.startswith(
        "the largest llama that fits: llama-3-70b\n  not llama-3.1-405b"
    )
    assert main.main([*words, "--min-nodes"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "the fewest hosts on which it fits: 2"
    assert said[1].startswith("  not 1: needs ")
    assert said[2] == "  batch: micro 1 × accumulation 32 × world size 16 = 512 samples per step"


def test_output_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "jobs/llama-70b.yaml", "--json"]
    assert main.main([*words, "--max-model", "llama"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["fits"], found["layers"]["given"]) == ("llama-3-70b", True, 80)
    assert [one["model"] for one in found["too_large"]] == ["llama-3.1-405b"]
    assert main.main([*words, "--min-nodes"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["nodes"], found["world_size"], found["fewer"]["nodes"]) == (2, 16, 1)
    assert found["batch"]["global"] == 512
    assert set(estimate.data(None)) <= set(found)


def test_a_program_of_ones_own_is_asked_for_its_model() -> None:
    """With `model:` both questions are answered as of a workload of ours, and else that is what is missing."""
    own = {"workload": "./train.py", "deepspeed": "zero3"}
    assert fewest(own).estimate.fits
    assert largest("llama", {**own, "nodes": 2}).estimate.fits
    for ask in (lambda job: fewest(job), lambda job: largest("llama", job)):
        with pytest.raises(PlanError, match="where the job names its model; add model: NAME"):
            ask({**own, "model": None})
        with pytest.raises(PlanError, match="AutoTP splits layers over ranks"):
            ask({**own, "deepspeed": {"preset": "zero2", "tensor_parallel": {"autotp_size": 2}}})


def test_a_failure_has_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "jobs/llama-70b.yaml", "--min-nodes", "--set", "cluster.hosts=1"]) == 3
    assert capsys.readouterr().err.startswith("jobs/llama-70b.yaml:10:1: it does not even fit on 1 host")


@pytest.mark.parametrize("workload", ["pretrain", "startup"])
def test_a_stage_that_the_job_writes_is_not_for_the_plan_to_choose(workload: str) -> None:
    job = {"model": "gpt2", "workload": workload, "args": {}, "batch": {"micro": 1}}
    for stage in (0, 1, 2, 3):
        made = samples.decided({**job, "deepspeed": {"zero_optimization": {"stage": stage}}}, **GPU)
        assert made.preset == f"zero{stage}"
        assert made.config["zero_optimization"]["stage"] == stage
        assert made.estimate is None or made.estimate.search is None
        assert made.estimate is None or [t.candidate.preset for t in made.estimate.compared] == [made.preset]
    free = samples.decided({**job, "deepspeed": {"zero_optimization": {"overlap_comm": False}}}, **GPU)
    assert free.estimate is None or free.estimate.search is not None


# A suggested change leads to a plan that fits


@pytest.mark.parametrize("preset", ["zero1", "zero2", "zero3", "auto"])
@pytest.mark.parametrize(("model", "micro"), [("llama-65b", 1), ("llama-2-70b", 8), ("llama-2-13b", 12)])
def test_what_a_refusal_proposes_works(model: str, micro: int, preset: str) -> None:
    job: dict[str, Any] = {
        "model": model,
        "nodes": 1,
        "batch": {"micro": micro, "global": micro * 8 * 6},
        "deepspeed": preset,
        "args": {"seq-length": 2048},
    }
    made = plan.make(load.Loaded(samples.job(**job), samples.cluster(**GPU)), samples.SITE)
    assert made.estimate is not None
    if made.estimate.fits:
        return
    (problem,) = made.estimate.refusal().problems
    for change in problem.hint.removeprefix("use ").split(", or "):
        changed = json.loads(json.dumps(job))
        for setting in re.findall(r"--set (\S+)", change):
            key, _, value = setting.partition("=")
            *above, last = key.split(".")
            at = changed
            for name in above:
                at = at.setdefault(name, {})
            at[last] = value if key == "deepspeed" else json.loads(value)
        assert changed != job
        assert fits(changed), change


# Host memory that torch rounds up

OFFLOAD: dict[str, Any] = {
    "model": "llama-2-7b",
    "batch": {"micro": 1},
    "deepspeed": "zero3-offload",
    "args": {"seq-length": 2048},
}


def test_exact_pinning_is_proposed_where_it_is_enough() -> None:
    made = samples.decided(OFFLOAD, **GPU)
    assert made.estimate is not None
    host = made.estimate.evaluation.memory.host
    assert host.rounding > 0
    tight = {**GPU, "memory": f"{(host.total - host.rounding // 2) // 10**6}MB"}
    refused = samples.decided(OFFLOAD, **tight).estimate
    assert refused is not None
    assert not refused.fits
    setting = "env.PYTORCH_ALLOC_CONF=pinned_max_round_threshold_mb:64"
    assert f"use --set {setting}" in str(refused.refusal())
    name, _, value = setting.removeprefix("env.").partition("=")
    for variable in (name, "PYTORCH_CUDA_ALLOC_CONF"):
        taken = samples.decided(
            {**OFFLOAD, "env": {variable: f"expandable_segments:True,{value}"}}, **tight
        ).estimate
        assert taken is not None
        assert taken.fits
    for other in ("expandable_segments:True", "pinned_max_round_threshold_mb:", ""):
        assert not fits({**OFFLOAD, "env": {name: other}}, **tight)


# Checkpoints


def test_what_failures_cost(capsys: pytest.CaptureFixture[str]) -> None:
    many = {"nodes": 512, "batch": {"micro": 1}, "checkpoint": {"every": 5000, "keep": 2}}
    made = samples.decided({**JOB, **many}, **{**GPU, "bandwidth": 3200})
    assert made.estimate is not None
    assert made.estimate.evaluation.bound is not None
    saving = made.estimate.saving
    assert saving is not None
    assert saving.on_disk == 3 * saving.size
    assert saving.seconds == pytest.approx(5000 * (made.estimate.evaluation.bound.step or 0))
    assert saving.lost is not None
    assert saving.lost > 0.01
    assert saving.steps is not None
    assert saving.steps < 5000
    assert f"; use checkpoint.every={saving.steps} or less" in estimate.text(made.estimate)
    often = {**many, "checkpoint": {"every": saving.steps}}
    less = samples.decided({**JOB, **often}, **{**GPU, "bandwidth": 3200}).estimate
    assert less is not None
    assert less.saving is not None
    assert (less.saving.lost or 1) <= 0.01
    assert "use checkpoint.every" not in estimate.text(less)
    assert main.main(["plan", "jobs/quickstart.yaml"]) == 0
    said = capsys.readouterr().out
    assert "checkpoint on disk    30.1 MB, " in said
    assert "between checkpoints" not in said  # how often a laptop fails is not known

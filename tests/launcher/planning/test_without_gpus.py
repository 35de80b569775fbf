"""A workload that needs no GPU asks for none, whatever the cluster's hosts have, on every scheduler."""

from __future__ import annotations

from typing import Any

import pytest

from launcher import schedulers
from launcher.errors import PlanError
from launcher.files import load
from launcher.planning import plan as plans
from tests import samples
from tests.launcher.schedulers.kubernetes import variants

PREPARE: dict[str, Any] = {"workload": "prepare", "model": "byte-gpt", "env": {}}
GPU: dict[str, Any] = {
    "gpu": "h100-80gb",
    "slots": 8,
    "cpus": 112,
    "fabric": "infiniband",
    "image": "registry.example.com/deepspeed-train",
    "slurm": {
        "partition": "gpu",
        "sbatch": {"gres": "gpu:8", "gpus-per-task": 8, "mem-per-gpu": "10G", "constraint": "fast"},
    },
}


def test_it_has_one_rank_a_host_and_no_device() -> None:
    plan = samples.decided({**PREPARE, "nodes": 2}, **GPU)
    assert (plan.gpu, plan.slots, plan.world_size, plan.fabric.name) == (False, 1, 2, "tcp")
    assert plan.image.endswith("-cuda"), "the image that the cluster's hosts have"
    assert samples.decided(PREPARE, slots=2).image.endswith("-cpu")
    assert samples.decided({"workload": "pretrain"}, **GPU).slots == 8
    assert samples.decided({"workload": "./mine.py"}, **GPU).gpu


def test_slurm_is_asked_for_none() -> None:
    text = schedulers.load("slurm").render(samples.decided(PREPARE, **GPU))["job.sh"]
    options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert not [line for line in options if "gpu" in line.replace("partition=gpu", "") or "exclusive" in line]
    assert "#SBATCH --constraint=fast" in options
    assert "#SBATCH --cpus-per-task=112" in options


@pytest.mark.parametrize("kind", variants.KINDS)
def test_pods_ask_for_none(kind: str) -> None:
    devices = {"runs": "runs", "kind": kind, "resources": {"rdma/ib": 8, "ephemeral-storage": "1Gi"}}
    job = {**PREPARE, "batch": {"micro": 1}}
    text = schedulers.load("kubernetes").render(variants.decide(devices, job))["manifest.yaml"]
    assert "nvidia.com/gpu" not in text.replace('"plan.json"', "").split("plan.json", 1)[0]
    limits = [line for line in text.splitlines() if line.strip().startswith(("limits:", "requests:"))]
    assert limits
    assert not [line for line in limits if "gpu" in line or "rdma" in line]
    assert [line for line in limits if "ephemeral-storage" in line]
    assert "IPC_LOCK" not in text


def test_tokens_that_end_with_their_pods_are_refused() -> None:
    job = {**PREPARE, "nodes": 1}
    with pytest.raises(PlanError, match="what workload 'prepare' makes would end with its pods"):
        schedulers.load("kubernetes").render(variants.decide({"runs": None}, job))
    mounts = {"/cache": {"claim": "cache"}}
    kept = variants.decide({"runs": None}, job, mounts=mounts, data_cache="/cache")
    assert '"claimName": "cache"' in schedulers.load("kubernetes").render(kept)["manifest.yaml"]


def test_a_stage_of_a_pipeline_runs_elsewhere() -> None:
    """jobs/llama-7b-corpus.yaml: a partition, and pods, without GPUs; what follows finds the tokens there."""
    stages = load.load("jobs/llama-7b-corpus.yaml").stages
    prepare = plans.make(load.load_stage(stages[0]), samples.SITE)
    pretrain = plans.make(load.load_stage(stages[1], {"prepare": prepare.folder}), samples.SITE)
    assert stages[1].needs == ("prepare",)
    assert (prepare.gpu, prepare.cluster.slurm.partition) == (False, "cpu")
    assert (pretrain.gpu, pretrain.cluster.slurm.partition) == (True, "gpu")
    assert pretrain.args["data-cache"] == f"{prepare.folder}/data"
    for name in ("data", "tokenizer"):
        assert prepare.args[name] == pretrain.args[name]

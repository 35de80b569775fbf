"""Runs without a claim for their folders: refused where they could not succeed, else with a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from launcher import workloads
from launcher.cli import main
from launcher.errors import PlanError
from launcher.schedulers import kubernetes
from tests.launcher.schedulers.kubernetes import schemas, variants

if TYPE_CHECKING:
    from pathlib import Path

CPU: dict[str, Any] = {"gpu": None, "cpus": None, "memory": None, "fabric": "tcp", "mounts": {}}
# what each needs beside a model; None: it saves no checkpoints
ARGS: dict[str, dict[str, Any]] = {"finetune": {"data": "/data"}, "chat_ppo": {"reward": "length"}}
SAVING = [name for name in workloads.names() if workloads.saves(name)]


def test_training_saves_and_serving_does_not() -> None:
    assert {"pretrain", "finetune", "chat_sft", "chat_rl"} <= set(SAVING)
    assert not {"serve", "generate", "allreduce"} & set(SAVING)
    assert not workloads.saves("/data/mine.py")


@pytest.mark.parametrize("kind", variants.KINDS)
def test_hosts_that_save_together_need_a_claim(kind: str) -> None:
    with pytest.raises(PlanError) as error:
        kubernetes.render(variants.decide({"kind": kind, "runs": None}))
    assert error.value.exit_code == 3
    assert "2 hosts save checkpoints, and without kubernetes.runs each has a run folder of its own" in str(
        error.value
    )
    assert "kubernetes: {runs: CLAIM}" in str(error.value)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"nodes": 1}, "an evicted run starts again from step 0"),
        ({"nodes": 1, "workload": "/data/mine.py"}, "RUN_DIR ends with its pod"),
        ({"nodes": 2, "workload": "/data/mine.py"}, "RUN_DIR ends with the pods, and each host has one"),
        ({"nodes": 2, "workload": "allreduce", "model": None}, ""),
    ],
)
def test_others_go_without_and_are_told_what_is_lost(job: dict[str, Any], words: str) -> None:
    plan = variants.decide({"runs": None}, {"env": {}, **job}, **CPU)
    kubernetes.render(plan)
    said = [str(warning) for warning in kubernetes.warnings(plan)]
    assert [words in line for line in said] == ([True] if words else [])
    assert kubernetes.warnings(variants.decide({}, {"env": {}, **job}, **CPU)) == []


def test_the_refusal_has_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.yaml").write_text(
        "slots: 1\nfabric: tcp\nimage: example.org/deepspeed-train:1\nkubernetes:\n  namespace: a\n"
    )
    (tmp_path / "job.yaml").write_text(
        "name: demo\ncluster: site.yaml\nnodes: 2\nmodel: byte-gpt\nbatch: {micro: 1}\n"
    )
    assert main.main(["kubernetes", str(tmp_path / "job.yaml"), "--dry-run"]) == 3
    assert f"{tmp_path}/site.yaml:4:1: 2 hosts save checkpoints" in capsys.readouterr().err


@pytest.mark.heavy
def test_the_claims_that_a_job_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "site.yaml").write_text(
        "slots: 1\nimage: registry.example.com/x:1\nmounts: {/data: {claim: corpus}, /more: {claim: corpus}}\n"
        "kubernetes: {runs: runs, namespace: nlp}\n"
    )
    words = ["kubernetes", "jobs/quickstart.yaml", "--cluster", str(tmp_path / "site.yaml")]
    assert main.main([*words, "--dry-run", "--with-claims", "1Ti:fast"]) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    claims = [d for d in documents if d["kind"] == "PersistentVolumeClaim"]
    assert [c["metadata"] for c in claims] == [
        {"name": "runs", "namespace": "nlp"},
        {"name": "corpus", "namespace": "nlp"},
    ]
    assert [p for c in claims for p in schemas.problems(c)] == []
    for claim in claims:
        assert claim["spec"] == {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "fast",
            "resources": {"requests": {"storage": "1Ti"}},
        }
    assert documents[-1]["kind"] == "Job"
    assert main.main([*words, "--dry-run", "--with-claims", "1Ti"]) == 0
    first = next(yaml.safe_load_all(capsys.readouterr().out))
    assert "storageClassName" not in first["spec"]

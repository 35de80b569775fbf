"""`check --live` on the fake API server: what is missing is named, all at once, and nothing is created."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from launcher.images import registry
from tests.launcher.discovery.test_kubernetes import furnish
from tests.launcher.schedulers.kubernetes.conftest import cluster, fake_server, job, run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.launcher.schedulers.kubernetes.conftest import Cluster

__all__ = ["cluster", "fake_server", "job", "run"]
Run = Any


def live(run: Run, job: str, *settings: str) -> tuple[int, str, str]:
    words = [w for s in ("cluster.kubernetes.runs=shared", *settings) for w in ("--set", s)]
    found: tuple[int, str, str] = run("check", job, "--live", "--on", "kubernetes", *words)
    return found


def test_what_it_needs_is_there(cluster: Cluster, run: Run, job: str) -> None:
    furnish(cluster, "aws")
    before = cluster.objects()
    code, out, err = live(run, job, "cluster.kubernetes.queue=research")
    assert code == 0, err
    assert out.endswith(": the API server takes every object, in namespace training\n")
    assert cluster.objects() == before


def test_everything_that_is_missing_is_said_at_once(
    cluster: Cluster, run: Run, job: str, tmp_path: Path
) -> None:
    furnish(cluster, "aws")
    limits = {"hard": {"pods": "3", "requests.cpu": "100"}, "used": {"pods": "2", "requests.cpu": "1"}}
    quota = {"kind": "ResourceQuota", "metadata": {"name": "small"}, "status": limits}
    cluster.tell("put", plural="resourcequotas", object=quota)
    before = cluster.objects()
    code, _, err = live(
        run,
        job,
        "cluster.kubernetes.runs=gone",
        "cluster.kubernetes.queue=nowhere",
        "cluster.kubernetes.service_account=nobody",
        "cluster.kubernetes.image_pull_secrets=[registry]",
        'env={"HF_TOKEN": {"secret": "hf"}}',
        'cluster.mounts={"/data": {"claim": "corpus"}}',
    )
    assert code == 4
    for said in (
        "persistentvolumeclaim 'gone' is not in namespace training",
        "persistentvolumeclaim 'corpus' is not in namespace training",
        "secret 'hf' is not in namespace training",
        "secret 'registry' is not in namespace training",
        "serviceaccount 'nobody' is not in namespace training",
        "'nowhere' is no LocalQueue of namespace training",
        "quota small: pods 2 of 3 are used, and the run asks for 2 × 1",
    ):
        assert said in err, err
    assert "requests.cpu" not in err
    assert cluster.objects() == before


def test_a_quota_has_room_for_every_group_of_a_server(cluster: Cluster, run: Run, job: str) -> None:
    furnish(cluster, "aws")
    limits = {"hard": {"pods": "6"}, "used": {"pods": "1"}}
    quota = {"kind": "ResourceQuota", "metadata": {"name": "small"}, "status": limits}
    cluster.tell("put", plural="resourcequotas", object=quota)
    groups = ("cluster.kubernetes.kind=leaderworkerset", "cluster.kubernetes.serve.replicas=3")
    code, _, err = live(run, job, *groups)
    assert (code, "pods 1 of 6 are used, and the run asks for 6 × 1" in err) == (4, True), err


def test_a_quota_of_other_pods_refuses_no_run(cluster: Cluster, run: Run, job: str) -> None:
    """One with a scope counts some pods alone: those of a priority, say, or those that ask for nothing."""
    furnish(cluster, "aws")
    full = {"hard": {"pods": "2"}, "used": {"pods": "2"}}
    urgent = {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["urgent"]}]}
    for name, spec in {"urgent": {"scopeSelector": urgent}, "idle": {"scopes": ["BestEffort"]}}.items():
        quota = {"kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec, "status": full}
        cluster.tell("put", plural="resourcequotas", object=quota)
    code, _, err = live(run, job)
    assert code == 0, err
    quota = {"metadata": {"name": "asking"}, "spec": {"scopes": ["NotBestEffort"]}, "status": full}
    cluster.tell("put", plural="resourcequotas", object={"kind": "ResourceQuota", **quota})
    assert "quota asking: pods 2 of 2 are used" in live(run, job)[2]


def test_rights_that_are_missing(
    cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(cluster, "aws")
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("viewer")))
    code, _, err = live(run, job)
    assert code == 4
    assert "you may not create configmaps" in err
    assert "create jobs.batch" in err
    assert "launcher cluster rbac" in err


def test_an_image_that_its_registry_does_not_have(
    cluster: Cluster, run: Run, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(cluster, "aws")
    said = 'time="x" level=fatal msg="reading manifest 1 in registry.example.com/deepspeed-train: manifest unknown"'
    (tmp_path / "bin").mkdir()
    skopeo = tmp_path / "bin" / "skopeo"
    skopeo.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    skopeo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    registry.inspect.cache_clear()
    try:
        code, _, err = live(run, job)
        assert (code, "image cannot be pulled: reading manifest 1 in registry.example.com" in err) == (
            4,
            True,
        ), err
        registry.inspect.cache_clear()
        skopeo.write_text("#!/bin/sh\necho 'no route to host' >&2\nexit 1\n")
        assert live(run, job)[0] == 0, "what cannot be asked from here is only noted"
    finally:
        registry.inspect.cache_clear()


def test_a_refusal_of_the_dry_run(cluster: Cluster, run: Run, job: str) -> None:
    furnish(cluster, "aws")
    cluster.tell("rules", denied={"jobs": 'admission webhook "policy" denied the request: no team label'})
    code, _, err = live(run, job)
    assert (code, "no team label" in err) == (4, True)


def test_this_machine_has_no_queue(run: Run, job: str) -> None:
    code, out, _ = run("check", job, "--live", "--on", "local", "--set", "nodes=1")
    assert (code, "it would start at once" in out) == (0, True)

"""A namespace asked on the fake API server, as the users of its kubeconfig."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.launcher.discovery import answers
from tests.launcher.schedulers.kubernetes.conftest import cluster, fake_server, job, run

if TYPE_CHECKING:
    from tests.launcher.schedulers.kubernetes.conftest import Cluster

__all__ = ["cluster", "fake_server", "job", "run"]
Run = Any


def furnish(cluster: Cluster, cloud: str) -> None:
    """The nodes of a cloud, a shared claim, a quota and a queue."""
    for number, node in enumerate(answers.CLOUDS[cloud]):
        named = {"kind": "Node", **node, "metadata": {**node["metadata"], "name": f"n{number}"}}
        cluster.tell("put", plural="nodes", namespace="", object=named)
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Ti"}}}
    for kind, plural, name, more in (
        ("PersistentVolumeClaim", "persistentvolumeclaims", "shared", {"spec": claim}),
        ("LocalQueue", "localqueues", "research", {}),
        (
            "ResourceQuota",
            "resourcequotas",
            "gpus",
            {"status": {"hard": {"pods": "9"}, "used": {"pods": "2"}}},
        ),
    ):
        document = {"kind": kind, "metadata": {"name": name}, **more}
        cluster.tell("put", plural=plural, object=document)
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    own = {"kind": "Namespace", "metadata": {"name": "training", "labels": labels}}
    cluster.tell("put", plural="namespaces", namespace="", object=own)


@pytest.mark.heavy
def test_the_file_passes_check_and_a_job_is_submitted_with_it(
    cluster: Cluster, run: Run, job: str, tmp_path: Path
) -> None:
    furnish(cluster, "aws")
    file = str(tmp_path / "found.yaml")
    code, out, err = run("cluster", "discover", "kubernetes", "-o", file)
    assert (code, out) == (0, ""), err
    text = Path(file).read_text()
    for line in (
        'fabric: "efa-p5"',
        'queue: "research"',
        'runs: "shared"',
        "hosts: 4",
        "baseline",
        "pods 2 of 9",
    ):
        assert line in text
    assert "RIGHTS" not in text
    assert run("check", job, "--cluster", file, "--set", "model=gpt2", "--on", "kubernetes")[0] == 0
    code, out, err = run("kubernetes", job, "--cluster", file, "--set", "model=gpt2")
    assert code == 0, err
    assert ("jobs", out.strip()) in cluster.objects()


@pytest.mark.parametrize("cloud", sorted(answers.CLOUDS))
@pytest.mark.heavy
def test_a_job_is_submitted_with_the_file_of_each_cloud(
    cloud: str, cluster: Cluster, run: Run, job: str, tmp_path: Path
) -> None:
    furnish(cluster, cloud)
    file = str(tmp_path / "found.yaml")
    assert run("cluster", "discover", "kubernetes", "-o", file)[0] == 0
    given = ("model=gpt2", "nodes=1", "cluster.image=registry.example.com/train:1")
    words = ("--cluster", file, *(word for setting in given for word in ("--set", setting)))
    code, _, err = run("check", job, "--on", "kubernetes", *words)
    assert code == 0, err
    code, out, err = run("kubernetes", job, *words)
    assert code == 0, err
    assert ("jobs", out.strip()) in cluster.objects()


def test_adapters_that_a_driver_hands_out(cluster: Cluster, run: Run, job: str, tmp_path: Path) -> None:
    """EFA without its device plugin: the nodes count none, and the driver's class is there."""
    furnish(cluster, "aws")
    for number, node in enumerate(answers.CLOUDS["aws"]):
        held = {
            k: v for k, v in node["status"]["allocatable"].items() if not k.startswith("vpc.amazonaws.com")
        }
        named = {**node, "kind": "Node", "metadata": {**node["metadata"], "name": f"n{number}"}}
        cluster.tell("put", plural="nodes", namespace="", object={**named, "status": {"allocatable": held}})
    file, words = tmp_path / "found.yaml", ("--set", "model=gpt2", "--on", "kubernetes", "--live")
    assert run("cluster", "discover", "kubernetes", "-o", str(file))[0] == 0
    assert "no device for RDMA was seen" in file.read_text()
    known = {"kind": "DeviceClass", "metadata": {"name": "efa.networking.k8s.aws"}}
    cluster.tell("put", plural="deviceclasses", namespace="", object=known)
    assert run("cluster", "discover", "kubernetes", "--force", "-o", str(file))[0] == 0
    assert 'fabric: "efa-p5"' in file.read_text()
    assert "adapters: dra" in file.read_text()
    code, _, err = run("check", job, "--cluster", str(file), *words)
    assert code == 0, err
    cluster.tell("remove", plural="deviceclasses", namespace="", name="efa.networking.k8s.aws")
    code, _, err = run("check", job, "--cluster", str(file), *words)
    assert (code, "the cluster has no DeviceClass efa.networking.k8s.aws" in err) == (4, True), err


def test_a_server_that_takes_questions_and_answers_none(
    cluster: Cluster, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.schedulers.kubernetes.api._PATIENCE", (0.2, 0.2))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        config = cluster.kubeconfig(server=f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("KUBECONFIG", str(config))
        file = tmp_path / "found.yaml"
        code, out, err = run("cluster", "discover", "kubernetes", "-o", str(file))
    assert (code, out, "does not answer" in err, file.exists()) == (4, "", True, False), err


def test_a_file_that_is_there_is_compared_and_kept(cluster: Cluster, run: Run, tmp_path: Path) -> None:
    furnish(cluster, "aws")
    file = tmp_path / "found.yaml"
    assert run("cluster", "discover", "kubernetes", "-o", str(file))[0] == 0
    before = file.read_text()
    assert run("cluster", "discover", "kubernetes", "-o", str(file))[0] == 2
    assert run("cluster", "discover", "kubernetes", "--update", "-o", str(file))[:2] == (0, "")
    cluster.tell("remove", plural="nodes", namespace="", name="n0")
    code, out, _ = run("cluster", "discover", "kubernetes", "--update", "-o", str(file))
    assert (code, "-hosts: 4" in out, "+hosts: 3" in out) == (1, True, True), out
    assert file.read_text() == before
    assert run("cluster", "discover", "kubernetes", "--force", "-o", str(file))[0] == 0
    assert "hosts: 3" in file.read_text()


def test_what_a_user_may_not_see_or_do_is_said(
    cluster: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(cluster, "aws")
    code, out, err = run("cluster", "discover", "kubernetes", "--context", "viewer")
    assert code == 0
    assert "RIGHTS that the launcher needs and you do not have" in out
    assert "create jobs.batch" in out
    assert "get pods/log" not in out
    code, out, err = run("cluster", "discover", "kubernetes", "--context", "member")
    assert code == 0
    assert "not learned: nodes: GPUs, CPUs, memory, network: the API server refused (403)" in err
    assert "The nodes are not known" in out


@pytest.mark.parametrize(
    "gone", [["jobsets"], ["jobsets", "trainjobs", "trainingruntimes", "localqueues", "workloads"]]
)
def test_only_the_kinds_that_are_installed(cluster: Cluster, run: Run, gone: list[str]) -> None:
    cluster.tell("rules", without=gone)
    out = run("cluster", "discover", "kubernetes")[1]
    assert "job (batch/v1)" in out
    assert "jobset (" not in out
    assert ("trainjob (" in out, "kueue" in out) == (len(gone) == 1, len(gone) == 1)


def test_a_server_that_does_not_answer(cluster: Cluster, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        config = cluster.kubeconfig(server=f"http://127.0.0.1:{closed.getsockname()[1]}")
    monkeypatch.setenv("KUBECONFIG", str(config))
    code, out, err = run("cluster", "discover", "kubernetes")
    assert (code, out) == (4, "")
    assert "does not answer" in err
    code, _, err = run("cluster", "discover", "kubernetes", "--context", "nowhere")
    assert (code, "no Kubernetes cluster is configured" in err) == (6, True)
    assert "or name one of its contexts: --context NAME" in err
    assert "--dry-run" not in err


def test_a_server_that_does_not_say_what_one_may_do(cluster: Cluster, run: Run) -> None:
    cluster.tell("rules", without=["selfsubjectaccessreviews"])
    code, out, err = run("cluster", "discover", "kubernetes")
    assert code == 0
    assert "not learned: what you may do" in err
    assert "RIGHTS" not in out


def test_a_user_whose_credentials_are_rejected(cluster: Cluster, run: Run) -> None:
    code, out, err = run("cluster", "discover", "kubernetes", "--context", "expired")
    assert (code, out) == (4, "")
    assert "rejected the credentials" in err

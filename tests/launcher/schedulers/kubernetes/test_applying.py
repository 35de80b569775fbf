"""What a submission shows of the server's answers, and the rights that it needs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from launcher import ROOT
from launcher.schedulers.kubernetes import kinds

if TYPE_CHECKING:
    from tests.launcher.schedulers.kubernetes.conftest import Cluster

Run = Any


def test_warnings_of_the_server_are_shown_at_submission(cluster: Cluster, run: Run, job: str) -> None:
    would = r'would violate PodSecurity "restricted:latest": path C:\data'
    cluster.tell("rules", warnings={"jobs": [would, "another one"], "configmaps": ["a third"]})
    code, out, err = run("kubernetes", job)
    assert code == 0, err
    name = out.strip()
    assert [line for line in err.splitlines() if line.startswith("warning: ")] == [
        f"warning: configmap/{name}: a third",
        f"warning: job/{name}: {would}",
        f"warning: job/{name}: another one",
    ]


def rights() -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of every rule of rbac.yaml."""
    text = (ROOT / "templates" / "kubernetes" / "rbac.yaml").read_text(encoding="utf-8")
    documents = [d for d in YAML(typ="safe", pure=True).load_all(text) if "rules" in d]
    return {
        (group, resource, verb)
        for document in documents
        for rule in document["rules"]
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def live(cluster: Cluster, run: Run, job: str, kind: str, queueing: str) -> None:
    """Every verb that talks to the server, for one kind and queue. The pod is a host of kind job alone (else 5)."""
    settings = [
        "--set",
        f"cluster.kubernetes.kind={kind}",
        "--set",
        f"cluster.kubernetes.queueing={queueing}",
    ]
    if queueing == "kueue":
        settings += ["--set", "cluster.kubernetes.queue=research"]
    code, out, err = run("kubernetes", job, *settings)
    assert code == 0, err
    name, plural = out.strip(), f"{kind}s"
    cluster.tell("status", plural=plural, name=name, status={"conditions": []}, spec={"suspend": True})
    assert run("status", name)[0] == 0
    asked = [("diff", job, *settings), ("kubernetes", job, *settings, "--server-dry-run")]
    cluster.tell("status", plural=plural, name=name, status={"conditions": []}, spec={"suspend": False})
    pod = cluster.pod(name, 0, spec={"nodeName": "gpu-0"}, conditions=[{"type": "Ready", "status": "False"}])
    cluster.log(pod, "2026-01-01T00:00:01.1Z [0] step 1/9")
    asked += [("status", name), ("logs", name), ("list",)]
    for words in asked:
        code, _, err = run(*words)
        assert (code in {0, 1, 5}, "forbidden" in err) == (True, False), err
    condition = {"type": "Failed", "status": "True", "reason": "FailJobSetFailurePolicyAction", "message": ""}
    cluster.tell("status", plural=plural, name=name, status={"conditions": [condition]})
    cluster.tell("remove", plural="pods", name=pod)
    for words in (("status", name), ("resume", name), ("status", name), ("cancel", name)):
        code, _, err = run(*words)
        assert (code, "forbidden" in err) == (0, False), err


@pytest.mark.heavy
def test_the_role_has_the_rights_that_every_verb_needs_and_no_more(
    cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("member")))
    cluster.tell("rules", role=sorted(rights()))
    for kind in kinds.KINDS:
        live(cluster, run, job, kind, "volcano")
    live(cluster, run, job, "job", "kueue")
    cluster.tell("rules", apis={"podgroups": "scheduling.x-k8s.io/v1alpha1"})
    live(cluster, run, job, "job", "coscheduling")
    used = {tuple(right) for right in cluster.tell("used")}
    assert used - rights() == set()
    assert rights() - used == set()


def test_without_a_right_the_refusal_names_the_role(
    cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("member")))
    cluster.tell("rules", role=sorted(rights() - {("batch", "jobs", "create")}))
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert 'User "member" cannot create resource "jobs" in API group "batch"' in err
    assert "templates/kubernetes/rbac.yaml" in err
    assert cluster.objects() == {}

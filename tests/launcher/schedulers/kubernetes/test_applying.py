"""What a submission shows of the server's answers, and the rights that it needs."""

from __future__ import annotations

import itertools
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from launcher.schedulers.kubernetes import kinds
from launcher.schedulers.kubernetes import rights as role

if TYPE_CHECKING:
    from pathlib import Path

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


def rights(*needs: str) -> set[tuple[str, str, str]]:
    """(API group, resource, verb) of every rule that is printed, but for the nodes that `cluster discover` lists."""
    text = role.role(needs or role.every(), "training")
    documents = [d for d in YAML(typ="safe", pure=True).load_all(text) if "rules" in d]
    found = {
        (group, resource, verb)
        for document in documents
        for rule in document["rules"]
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }
    return found - {("", "nodes", "list")}


DOMAIN = (
    "cluster.gpu=gb200-186gb",
    "cluster.fabric=efa-p6e-gb200",
    "cluster.kubernetes.adapters=dra",
    "model=gpt2",
)


def kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests of `kubectl exec` alone: it looks at the pod first, and then opens the connection.

    https://github.com/kubernetes/kubernetes/blob/v1.34.0/staging/src/k8s.io/kubectl/pkg/cmd/exec/exec.go
    """
    program = f"""#!{sys.executable}
import json, os, sys, urllib.request
config = json.load(open(os.environ["KUBECONFIG"]))
server = config["clusters"][0]["cluster"]["server"]
words = sys.argv[1:]
pod = next(word for word in words[words.index("exec") + 1 :] if not word.startswith("-"))
path = f"{{server}}/api/v1/namespaces/training/pods/{{pod}}"
for method, part in (("GET", ""), ("POST", "/exec?command=true")):
    headers = {{"Authorization": "Bearer " + config["current-context"]}}
    try:
        urllib.request.urlopen(urllib.request.Request(path + part, headers=headers, method=method), timeout=60).read()
    except urllib.error.HTTPError as error:
        sys.exit(error.read().decode())
    except OSError:
        pass  # this server runs nothing for it
"""
    (folder / "bin").mkdir()
    (folder / "bin" / "kubectl").write_text(program)
    (folder / "bin" / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def live(cluster: Cluster, run: Run, job: str, kind: str, queueing: str, *more: str) -> None:
    """Every verb that talks to the server, for one kind and queue. The pod is a host of kind job alone (else 5)."""
    settings = [
        "--set",
        f"cluster.kubernetes.kind={kind}",
        "--set",
        f"cluster.kubernetes.queueing={queueing}",
    ]
    if queueing == "kueue":
        settings += ["--set", "cluster.kubernetes.queue=research"]
    settings += [word for setting in more for word in ("--set", setting)]
    code, out, err = run("kubernetes", job, *settings)
    assert code == 0, err
    name, plural = out.strip(), f"{kind}s"
    cluster.tell("status", plural=plural, name=name, status={"conditions": []}, spec={"suspend": True})
    assert run("status", name)[0] == 0
    asked = [("diff", job, *settings), ("kubernetes", job, *settings, "--server-dry-run")]
    cluster.tell("status", plural=plural, name=name, status={"conditions": []}, spec={"suspend": False})
    pod = cluster.pod(name, 0, spec={"nodeName": "gpu-0"}, conditions=[{"type": "Ready", "status": "False"}])
    cluster.log(pod, "2026-01-01T00:00:01.1Z [0] step 1/9")
    asked += [("status", name), ("logs", name), ("list",), ("fetch", name, "absent", "dest")]
    for words in asked:
        code, _, err = run(*words)
        assert (code in {0, 1, 5}, "forbidden" in err) == (True, False), err
    if kind == "job" and not more:
        assert "forbidden" not in beside(cluster, run, name).lower()
        again(run, job, settings)
    condition = {"type": "Failed", "status": "True", "reason": "FailJobSetFailurePolicyAction", "message": ""}
    cluster.tell("status", plural=plural, name=name, status={"conditions": [condition]})
    cluster.tell("remove", plural="pods", name=pod)
    for words in (("status", name), ("resume", name), ("status", name), ("cancel", name)):
        code, _, err = run(*words)
        assert (code, "forbidden" in err) == (0, False), err


def beside(cluster: Cluster, run: Run, name: str) -> str:
    """What is asked of ranks that run, whatever they answer. Returns what was said."""
    status = {"active": 2, "ready": 2, "conditions": []}
    cluster.tell("status", plural="jobs", name=name, status=status, spec={"suspend": False})
    pods = [cluster.pod(name, index, uid=f"up{index}") for index in range(2)]
    said = "".join(run(*words)[2] for words in (("stacks", name), ("profile", name, "--timeout", "1s")))
    for pod in pods:
        cluster.tell("remove", plural="pods", name=pod)
    return said


def again(run: Run, job: str, settings: list[str]) -> None:
    """Verbs that submit runs of their own."""
    tried = ["--space", "preset=zero1", "--space", "micro=1", "--space", "checkpointing=false"]
    for words in (
        ["tune", job, "--on", "kubernetes", "--steps", "3", *tried],
        ["kubernetes", job, "--name", "two"],
    ):
        code, out, err = run(*words, *settings)
        assert (code, "forbidden" in err) == (0, False), err
        for verb in ("status", "tune") if words[0] == "tune" else ("rerun",):
            code, _, err = run(verb, out.strip().splitlines()[-1])
            assert (code in {0, 1, 3, 5}, "forbidden" in err) == (True, False), err


@pytest.mark.heavy
def test_the_role_has_the_rights_that_every_verb_needs_and_no_more(
    cluster: Cluster, run: Run, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl(tmp_path, monkeypatch)
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("member")))
    cluster.tell("rules", role=sorted(rights()), claim="/claim")
    for kind in kinds.KINDS:
        live(cluster, run, job, kind, "volcano")
    live(cluster, run, job, "job", "kueue")
    cluster.tell("rules", apis={"podgroups": "scheduling.x-k8s.io/v1alpha1"})
    live(cluster, run, job, "job", "coscheduling")
    live(cluster, run, job, "job", "coscheduling", *DOMAIN)
    used = {tuple(right) for right in cluster.tell("used")}
    assert used - rights() == set()
    assert rights() - used == set()


def follow(cluster: Cluster, run: Run, job: str) -> None:
    """The verbs of a run of kind job, whatever they answer: submitted, waiting, running, ended, resumed, cancelled."""
    _, out, _ = run("kubernetes", job)
    name = out.strip()
    if not name:
        return
    for condition in (
        [],
        [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": ""}],
    ):
        cluster.tell("status", plural="jobs", name=name, status={"conditions": condition})
        pod = cluster.pod(
            name, 0, spec={"nodeName": "gpu-0"}, conditions=[{"type": "Ready", "status": "False"}]
        )
        cluster.log(pod, "2026-01-01T00:00:01.1Z [0] step 1/9")
        for words in (("status", name), ("logs", name), ("diff", job), ("status", name)):
            run(*words)
        cluster.tell("remove", plural="pods", name=pod)
        run("status", name)
    for verb in ("resume", "cancel"):
        run(verb, name)


@pytest.mark.heavy
def test_no_right_of_the_role_can_be_left_out(
    cluster: Cluster, run: Run, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("member")))
    for right in sorted(rights("job")):
        cluster.tell("reset")
        cluster.tell("rules", role=sorted(rights("job") - {right}))
        follow(cluster, run, job)
        assert cluster.tell("refused") == [list(right)], right
    kubectl(tmp_path, monkeypatch)
    every = rights("job", "exec", "claim")
    assert every > rights("job")
    for right in sorted(every - rights("job")):
        cluster.tell("reset")
        cluster.tell("rules", role=sorted(every - {right}), claim="/claim")
        _, out, _ = run("kubernetes", job)
        run("fetch", out.strip(), "absent", "dest")
        if right == ("", "pods", "get"):
            assert "forbidden" in beside(cluster, run, out.strip()).lower()
        assert cluster.tell("refused") == [list(right)], right


def test_the_role_of_a_cluster_file_is_its_own(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "own.yaml"
    site.write_text("slots: 1\nkubernetes: {kind: jobset, queue: research, namespace: nlp}\n")
    code, out, err = run("cluster", "rbac", "--cluster", str(site))
    assert (code, err) == (0, "")
    documents = [d for d in YAML(typ="safe", pure=True).load_all(out) if d["kind"] == "Role"]
    role = tmp_path / "role.yaml"
    assert run("cluster", "rbac", "--cluster", str(site), "-o", str(role))[:2] == (0, "")
    assert role.read_text() == out
    assert run("cluster", "rbac", "-o", str(role))[0] == 2  # it is there
    (own,) = documents
    assert own["metadata"]["namespace"] == "nlp"
    resources = {r for rule in own["rules"] for r in rule["resources"]}
    assert {"jobsets", "workloads"} <= resources
    assert not resources & {"services", "podgroups", "trainjobs", "computedomains"}
    verbs = {verb for rule in own["rules"] if rule["resources"] == ["pods"] for verb in rule["verbs"]}
    assert verbs == {"list", "get"}, "without a claim nothing is fetched by a pod of its own"


def test_without_a_right_the_refusal_names_the_role(
    cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("member")))
    cluster.tell("rules", role=sorted(rights() - {("batch", "jobs", "create")}))
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert 'User "member" cannot create resource "jobs" in API group "batch"' in err
    assert "`launcher cluster rbac` prints the Role to ask for" in err
    assert cluster.objects() == {}

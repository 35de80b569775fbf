"""`launcher fetch` from a claim: a real docker/sender.py behind the fake server's exec."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from launcher.runs import record
from launcher.schedulers.kubernetes import api, fetching
from launcher.submission import rerun
from tests.launcher.schedulers.kubernetes import audit, schemas
from tests.launcher.schedulers.kubernetes.test_verbs import submitted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.launcher.schedulers.kubernetes.conftest import Cluster

Run = Any
PLACED = """slots: 2
fabric: tcp
image: registry.example.com/deepspeed-train:1
kubernetes:
  runs: runs
  queue: research
  labels: {team: nlp}
  node_selector: {pool: gpu}
  tolerations: [{key: reserved, operator: Exists}]
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a]}]}]
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - {labelSelector: {matchLabels: {app: cache}}, topologyKey: zone}
  pod_patch:
    metadata: {labels: {cost: a1}, annotations: {sidecar.istio.io/inject: "false"}}
    spec:
      priorityClassName: low
      runtimeClassName: nvidia
      volumes: [{name: tools, emptyDir: {}}]
      initContainers: [{name: tools, image: "tools:1", volumeMounts: [{name: tools, mountPath: /tools}]}]
      containers: [{name: node, volumeMounts: [{name: tools, mountPath: /tools}]}]
      resourceClaims: [{name: nic, resourceClaimTemplateName: nics}]
"""


@pytest.fixture
def name(cluster: Cluster, run: Run, job: str, tmp_path: Path) -> str:
    """A run whose folder on the claim has an export."""
    made = submitted(run, job)
    export = tmp_path / "claim" / made / "export"
    export.mkdir(parents=True)
    (export / "config.json").write_text("{}")
    (export / "weights").write_bytes(os.urandom(300_000))
    cluster.tell("rules", claim=str(tmp_path / "claim"))
    return made


def pods(cluster: Cluster) -> list[str]:
    return [name for plural, name in cluster.objects() if plural == "pods"]


def same(tmp_path: Path, name: str) -> bool:
    there, here = tmp_path / "claim" / name / "export", tmp_path / "dest"
    return {p.name: p.read_bytes() for p in there.iterdir()} == {
        p.name: p.read_bytes() for p in here.iterdir()
    }


@pytest.mark.heavy
def test_files_come_through_a_pod_that_is_gone_at_the_end(
    cluster: Cluster, run: Run, name: str, tmp_path: Path
) -> None:
    code, out, err = run("fetch", name, "export/", str(tmp_path / "dest"))
    assert (code, out) == (0, ""), err
    assert same(tmp_path, name)
    assert pods(cluster) == []
    assert "reads the claim runs" in err
    assert "2 files, 300 kB" in err
    code, _, err = run("fetch", name, "export", str(tmp_path / "dest"))
    assert (code, "0 files, 0 B" in err, "2 were there already" in err) == (0, True, True)
    code, _, err = run("fetch", name, "exports", str(tmp_path / "dest"))
    assert (code, "it holds export" in err, pods(cluster)) == (5, True, [])


@pytest.mark.heavy
def test_a_pod_that_its_node_does_not_take_says_why(
    cluster: Cluster, run: Run, name: str, tmp_path: Path
) -> None:
    cluster.tell("rules", claim="")  # no pod runs by itself
    said = {"reason": "OutOfcpu", "message": "Pod was rejected: Node didn't have enough resource: cpu"}

    def kubelet() -> None:
        while not (made := pods(cluster)):
            time.sleep(0.01)
        cluster.tell("status", plural="pods", name=made[0], status={"phase": "Failed", **said})

    thread = threading.Thread(target=kubelet)
    thread.start()
    code, _, err = run("fetch", name, "export/", str(tmp_path / "dest"))
    thread.join()
    assert code == 4
    words = f"ended before anything was read: the node ended the pod (OutOfcpu): {said['message']}"
    assert (words in err, pods(cluster)) == (True, []), err


def test_the_pod_may_only_read_and_asks_for_no_gpu(
    cluster: Cluster, run: Run, name: str, tmp_path: Path
) -> None:
    found = record.find(tmp_path / "runs", name)
    plan = rerun.plan_of(found)._replace(id=name)
    text = fetching.manifest(plan, f"{name}-fetch-abcdef")
    (pod,) = YAML(typ="safe", pure=True).load_all(text)
    assert audit.problems([pod]) == []
    assert not list(audit.pod(pod["spec"]))
    assert audit.security(pod["spec"]) == "restricted"
    (container,) = pod["spec"]["containers"]
    assert container["image"] == plan.image
    assert container["volumeMounts"] == [{"name": "runs", "mountPath": "/runs", "readOnly": True}]
    # a namespace with a quota on any of the four refuses a pod that does not say
    assert {key: set(amounts) for key, amounts in container["resources"].items()} == {
        "requests": {"cpu", "memory"},
        "limits": {"cpu", "memory"},
    }
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container["env"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert "launcher/run" not in pod["metadata"]["labels"], "it is none of the run's hosts"
    assert [*schemas.problems(pod, schemas.OLDEST), *schemas.problems(pod)] == []


def test_the_pod_is_admitted_and_placed_as_those_of_the_run(
    cluster: Cluster, run: Run, tmp_path: Path
) -> None:
    """Queue, labels, nodes, tolerations and what of a patch is not about the ranks' own container."""
    (tmp_path / "site.yaml").write_text(PLACED)
    (tmp_path / "job.yaml").write_text("name: demo\ncluster: site.yaml\nmodel: byte-gpt\nbatch: {micro: 1}\n")
    name = submitted(run, str(tmp_path / "job.yaml"))
    found = record.find(tmp_path / "runs", name)
    plan = rerun.plan_of(found)._replace(id=name)
    (pod,) = YAML(typ="safe", pure=True).load_all(fetching.manifest(plan, f"{name}-fetch-abcdef"))
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    assert (labels["team"], labels["kueue.x-k8s.io/queue-name"], labels["cost"]) == ("nlp", "research", "a1")
    assert labels["launcher/fetch"] == name
    assert pod["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert set(spec["affinity"]) == {"nodeAffinity"}
    assert "reserved" in {toleration.get("key") for toleration in spec["tolerations"]}
    assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("low", "nvidia")
    assert [container["name"] for container in spec["containers"]] == ["fetch"]
    assert [volume["name"] for volume in spec["volumes"]] == ["runs"]
    assert not {"initContainers", "resourceClaims"} & set(spec)
    assert [*schemas.problems(pod, schemas.OLDEST), *schemas.problems(pod)] == []
    assert audit.problems([pod]) == []


@pytest.mark.heavy
def test_a_path_of_any_bytes_is_not_there(run: Run, name: str, tmp_path: Path) -> None:
    assert run("fetch", name, "\udcff", str(tmp_path / "dest"))[0] in {4, 5}


def test_a_pod_of_the_run_is_used_while_it_runs(
    cluster: Cluster, run: Run, name: str, tmp_path: Path
) -> None:
    host = cluster.pod(name, 0)
    code, _, err = run("fetch", name, "export", str(tmp_path / "dest"))
    assert code == 0, err
    assert same(tmp_path, name)
    assert pods(cluster) == [host]
    assert "reads the claim" not in err


@pytest.mark.heavy
def test_a_connection_that_breaks_leaves_whole_files_and_a_second_try_continues(
    cluster: Cluster, run: Run, name: str, tmp_path: Path
) -> None:
    cluster.tell("rules", cut=100_000)
    code, _, err = run("fetch", name, "export", str(tmp_path / "dest"))
    assert code == 4
    assert "the files did not all come" in err
    assert "do the same again" in err
    assert [path.name for path in (tmp_path / "dest").iterdir()] == ["config.json"]
    assert pods(cluster) == []
    cluster.tell("rules", cut=0)
    code, _, err = run("fetch", name, "export", str(tmp_path / "dest"))
    assert (code, "1 files" in err, "1 were there already" in err) == (0, True, True), err
    assert same(tmp_path, name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.heavy
def test_whatever_ends_it_removes_the_pod(
    number: int, cluster: Cluster, run: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, `timeout`, a terminal that closes."""
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, default)

    def interrupted(*_: Any, **__: Any) -> None:
        assert len(pods(cluster)) == 1
        assert signal.getsignal(number) is not signal.SIG_DFL
        os.kill(os.getpid(), number)

    monkeypatch.setattr("launcher.runs.receiving.receive", interrupted)
    try:
        assert run("fetch", name, "export", str(tmp_path / "dest"))[0] == 130
        assert signal.getsignal(number) is default
    finally:
        signal.signal(number, before)
    assert pods(cluster) == []


def test_an_interruption_while_the_pod_is_made_removes_it(
    cluster: Cluster, run: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = api.Server.call

    def interrupted(self: api.Server, method: str, *words: Any, **more: Any) -> Any:
        answer = call(self, method, *words, **more)
        if method == "POST":
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(api.Server, "call", interrupted)
    assert run("fetch", name, "export", str(tmp_path / "dest"))[0] == 130
    assert pods(cluster) == []


def test_without_a_claim_only_while_a_pod_runs(cluster: Cluster, run: Run, job: str, tmp_path: Path) -> None:
    more = ("--set", "cluster.kubernetes.runs=null", "--set", "nodes=1")
    name = submitted(run, job, *more)
    code, _, err = run("fetch", name, ".", str(tmp_path / "dest"))
    assert code == 4
    assert f"the folder of {name} ended with its pods" in err


def test_a_pod_that_does_not_start_is_explained_and_removed(
    cluster: Cluster, run: Run, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.tell("rules", claim="")  # nothing runs
    monkeypatch.setattr(fetching, "_PATIENCE", 0.1)
    code, _, err = run("fetch", name, ".", str(tmp_path / "dest"))
    assert code == 4
    assert "did not start within" in err
    assert pods(cluster) == []


@pytest.mark.parametrize(
    ("right", "kept"), [("create pods", 0), ("get pods/exec", 0), ("create pods/exec", 0)]
)
def test_a_right_that_is_missing_is_named(
    right: str, kept: int, cluster: Cluster, run: Run, name: str, tmp_path: Path
) -> None:
    verb, resource = right.split()
    cluster.tell("rules", forbidden=[[verb, resource]])
    code, _, err = run("fetch", name, "export", str(tmp_path / "dest"))
    assert code == 4
    assert f'cannot {verb} resource "{resource}"' in err
    assert "`launcher cluster rbac` prints the Role" in err
    assert len(pods(cluster)) == kept
    assert "was not deleted" not in err
    shutil.rmtree(tmp_path / "dest", ignore_errors=True)


def test_a_pipeline_or_a_run_that_was_not_submitted_has_none(run: Run, tmp_path: Path) -> None:
    assert run("fetch", "absent", "export", str(tmp_path / "dest"))[0] == 5

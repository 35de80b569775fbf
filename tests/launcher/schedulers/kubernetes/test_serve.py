"""A server as a LeaderWorkerSet: the Service, the probe and the server agree on the port."""

from __future__ import annotations

import pytest
from ruamel.yaml import YAML

from launcher.errors import PlanError
from launcher.planning import plan
from launcher.schedulers import kubernetes
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

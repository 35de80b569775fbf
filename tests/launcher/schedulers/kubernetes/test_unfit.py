"""A host that fails preflight: named with its node, listed, and avoided by the next submission of any kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

from launcher.runs import badhosts
from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import applying, unfit
from tests.launcher.schedulers.kubernetes import audit, schemas, variants
from tests.launcher.schedulers.kubernetes.test_verbs import finish, state, submitted

if TYPE_CHECKING:
    from pathlib import Path

    from tests.launcher.schedulers.kubernetes.conftest import Cluster

Run = Any
NODE_FIELDS = [
    {"key": "metadata.name", "operator": "NotIn", "values": ["gpu-1"]},
    {"key": "metadata.name", "operator": "NotIn", "values": ["gpu-7"]},
]


def preflight_failed(cluster: Cluster, name: str, minute: int, nodes: tuple[str, str], bad: int) -> None:
    """An attempt: both pods end with 76, and say that host `bad` is not fit."""
    for index, node in enumerate(nodes):
        said = f"preflight, 3.1 s\n  host\nnode: error: {name}-{bad}.{name} is not fit for this job: driver: too old"
        ended = {"exitCode": 76, "finishedAt": f"2026-01-01T00:{minute:02}:0{index}Z", "message": said}
        cluster.pod(
            name,
            index,
            state="Failed",
            uid=f"m{minute}",
            made=f"2026-01-01T00:{minute:02}:00Z",
            container={"terminated": ended},
            spec={"nodeName": node},
        )


def listed(tmp_path: Path) -> list[str]:
    return (tmp_path / "runs" / badhosts.NAME).read_text().splitlines()


def test_it_is_named_with_its_node_while_the_run_tries_again_and_when_it_has_failed(
    cluster: Cluster, run: Run, job: str, tmp_path: Path
) -> None:
    name = submitted(run, job)
    preflight_failed(cluster, name, 1, ("gpu-0", "gpu-1"), 1)
    words = f"{name}-1 on gpu-1 failed preflight: driver: too old"
    assert words in state(run, name)["reason"]
    for index in range(2):
        cluster.pod(name, index, uid="again", made="2026-01-01T00:02:00Z", spec={"nodeName": f"gpu-{index}"})
    now = state(run, name)
    assert (now["state"], now["reason"]) == ("RUNNING", f"after an attempt in which {words}")
    assert listed(tmp_path) == [f"gpu-1 2026-01-02T00:01:01+00:00 driver: too old, run {name}"], "once"
    for index in range(2):
        cluster.tell("remove", plural="pods", name=f"{name}-{index}-again")
    preflight_failed(cluster, name, 3, ("gpu-1", "gpu-7"), 1)
    finish(cluster, name, "Failed")
    now = state(run, name)
    assert (now["state"], now["exit_code"]) == ("FAILED", 76)
    assert f"{name}-1 on gpu-7 failed preflight: driver: too old" in now["reason"]
    assert [line.split()[0] for line in listed(tmp_path)] == ["gpu-1", "gpu-7"]
    code, out, _ = run("status", name)
    assert (code, "resume RUN --exclude-bad" in out or "--exclude-bad" in out) == (0, True)


@pytest.mark.heavy
def test_the_next_submission_and_a_resume_keep_off_it(
    cluster: Cluster, run: Run, job: str, tmp_path: Path
) -> None:
    name = submitted(run, job)
    finish(cluster, name, "Failed")
    later = "2999-01-01T00:00:00+00:00"
    (tmp_path / "runs" / badhosts.NAME).write_text(f"gpu-1 {later} x\ngpu-7 {later} y\n")
    assert run("resume", name, "--exclude-bad")[0] == 0
    other = submitted(run, job, "--exclude-bad", "--name", "other")
    for one in (name, other):
        affinity = cluster.objects()["jobs", one]["spec"]["template"]["spec"]["affinity"]
        (term,) = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert term == {"matchFields": NODE_FIELDS}
    again = submitted(run, job, "--name", "third")
    assert "affinity" not in cluster.objects()["jobs", again]["spec"]["template"]["spec"]


@pytest.mark.parametrize("kind", variants.KINDS)
@pytest.mark.heavy
def test_every_kind_keeps_off_it(kind: str) -> None:
    plan = variants.decide({"kind": kind, **_own(kind)})
    for manifest in (
        kubernetes.render(plan._replace(exclude=("gpu-1", "gpu-7")))["manifest.yaml"],
        applying.avoiding(kubernetes.render(plan)["manifest.yaml"], ["gpu-1", "gpu-7"]),
    ):
        documents = [d for d in YAML(typ="safe", pure=True).load_all(manifest) if d]
        assert audit.problems(documents) == []
        assert [problem for d in documents for problem in schemas.problems(d)] == []
        specs = [t["spec"] for d in documents for t in schemas.pod_templates(d)]
        assert specs
        for spec in specs:
            required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert [term["matchFields"] for term in required["nodeSelectorTerms"]] == [NODE_FIELDS]


def _own(kind: str) -> dict[str, Any]:
    """Affinity of the cluster file's own, where the kind has pods of its own."""
    return {"affinity": variants.EVERYTHING["affinity"]} if kind == "job" else {}


def test_terms_of_ones_own_are_kept() -> None:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = [{"matchExpressions": ["a"]}, {"matchFields": ["b"]}]
    given = {"podAffinity": {}, "nodeAffinity": {"preferred": [], required: {"nodeSelectorTerms": terms}}}
    made = unfit.without(given, ["gpu-1", "gpu-7"])
    assert made["nodeAffinity"][required]["nodeSelectorTerms"] == [
        {"matchExpressions": ["a"], "matchFields": NODE_FIELDS},
        {"matchFields": ["b", *NODE_FIELDS]},
    ]
    assert (made["podAffinity"], made["nodeAffinity"]["preferred"]) == ({}, [])
    assert given["nodeAffinity"][required] == {"nodeSelectorTerms": terms}, "what was given stays"
    assert unfit.without(given, []) == given

"""kubernetes.pod_patch: merged as Kubernetes merges, in every kind; what would break the run is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from launcher.cli import main
from launcher.errors import PlanError
from launcher.schedulers import kubernetes
from tests.launcher.schedulers.kubernetes import audit, schemas, variants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Object = dict[str, Any]
PATCH: Object = {
    "metadata": {"annotations": {"team": "on", "size": "0x10"}},
    "spec": {
        "runtimeClassName": "nvidia",
        "resourceClaims": [{"name": "nic", "resourceClaimTemplateName": "nic"}],
        "initContainers": [
            {
                "name": "logs",
                "image": "fluent-bit:3",
                "restartPolicy": "Always",
                "command": ["sh", "-c", 'a "b" $c # d'],
            }
        ],
        "volumes": [{"name": "vault", "csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}}],
        "containers": [
            {
                "name": "node",
                "env": [{"name": "TEAM", "value": "nlp"}],
                "volumeMounts": [{"name": "vault", "mountPath": "/vault"}],
                "resources": {"claims": [{"name": "nic"}]},
            }
        ],
    },
}


def documents(plan_: Any) -> list[Object]:
    return list(
        yaml.safe_load_all(kubernetes.render(plan_)["manifest.yaml"])
    )  # YAML 1.1, as the server reads it


def pods(plan_: Any) -> Iterator[Object]:
    for document in documents(plan_):
        yield from schemas.pod_templates(document)


def own(kind: str) -> Object:
    """The patch for a kind, whose ranks' container has a name of its own."""
    containers = [{**PATCH["spec"]["containers"][0], "name": kubernetes.kinds.KINDS[kind].container}]
    return {**PATCH, "spec": {**PATCH["spec"], "containers": containers}}


@pytest.mark.parametrize("kind", variants.KINDS)
@pytest.mark.heavy
def test_every_pod_of_every_kind_has_it_and_nothing_else_changes(kind: str) -> None:
    before = variants.decide({"kind": kind})
    after = variants.decide({"kind": kind, "pod_patch": own(kind)})._replace(id=before.id)
    pairs = list(zip(pods(before), pods(after), strict=True))
    assert pairs
    for plain, patched in pairs:
        assert patched["metadata"]["annotations"].items() >= {"team": "on", "size": "0x10"}.items()
        spec, rank = patched["spec"], patched["spec"]["containers"][0]
        assert spec["runtimeClassName"] == "nvidia"
        assert spec["initContainers"][-1]["command"] == ["sh", "-c", 'a "b" $c # d']
        assert rank["env"][-1] == {"name": "TEAM", "value": "nlp"}
        assert rank["volumeMounts"][-1] == {"name": "vault", "mountPath": "/vault"}
        assert rank["resources"].pop("claims") == [{"name": "nic"}]
        # taken away again, it is the pod that was there
        for name in ("runtimeClassName", "resourceClaims", "initContainers"):
            del spec[name]
        for entries in (spec["volumes"], rank["env"], rank["volumeMounts"]):
            entries.pop()
        patched["metadata"]["annotations"] = plain["metadata"].get("annotations")
        assert spec == plain["spec"]
    found = documents(after)
    assert audit.problems(found) == []
    assert [p for d in found for p in schemas.problems(d, schemas.NEWEST)] == []


def test_the_text_says_so_and_keeps_its_comments() -> None:
    text = kubernetes.render(variants.decide({"pod_patch": PATCH}))["manifest.yaml"]
    assert "# kubernetes.pod_patch is merged into the pods" in text
    assert "# from SIGTERM to SIGKILL" in text
    assert kubernetes.render(variants.decide({"pod_patch": {}})) == kubernetes.render(variants.decide({}))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"restartPolicy": "Always"}, "changes restartPolicy; use `restarts:` of the job"),
        ({"subdomain": None}, "changes subdomain; hosts find each other by it"),
        ({"tolerations": []}, "changes tolerations; use kubernetes.tolerations"),
        ({"terminationGracePeriodSeconds": 5}, "use kubernetes.grace_seconds"),
        ({"hostname": "x"}, "changes hostname; hosts find each other by it"),
        ({"hostNetwork": True}, "changes hostNetwork; use `fabric:`"),
        ({"schedulerName": "x"}, "changes schedulerName; use kubernetes.scheduler"),
        ({"containers": None}, "removes container 'node'"),
        ({"initContainers": [{"name": "node"}]}, "init container 'node' has no image"),
        ({"containers": [{"name": "node", "image": "x"}]}, "changes the ranks' image; use `image:`"),
        ({"containers": [{"name": "node", "args": ["x"]}]}, "changes the ranks' args"),
        ({"containers": [{"name": "node", "$patch": "delete"}]}, "removes container 'node'"),
        ({"containers": [{"name": "logs", "image": "x"}]}, "would keep the pod when its ranks have ended"),
        (
            {"containers": [{"name": "node", "env": [{"name": "RUN_DIR", "value": "/"}]}]},
            "changes env RUN_DIR",
        ),
        (
            {"containers": [{"name": "node", "volumeMounts": [{"mountPath": "/runs", "$patch": "delete"}]}]},
            "changes volumeMounts /runs of the ranks; use `mounts:`",
        ),
        ({"containers": [{"name": "node", "resources": None}]}, "changes the ranks' limit nvidia.com/gpu"),
        ({"volumes": [{"name": "shm", "emptyDir": None}]}, "changes volume 'shm'"),
        ({"initContainers": [{"name": "node", "image": "x"}]}, "has two containers 'node'"),
        (
            {"containers": [{"name": "node", "volumeMounts": [{"name": "gone", "mountPath": "/x"}]}]},
            "mounts 'gone' in 'node', which is no volume of the pod; add it to `volumes`",
        ),
        (
            {"containers": [{"name": "node", "resources": {"requests": {"nvidia.com/gpu": 4}}}]},
            "requests 4 nvidia.com/gpu and limits it to 8; devices need equal ones",
        ),
    ],
)
@pytest.mark.heavy
def test_what_would_break_the_run_is_named(spec: Object, says: str) -> None:
    with pytest.raises(PlanError) as refused:
        kubernetes.render(variants.decide({"pod_patch": {"spec": spec}}))
    assert says in str(refused.value)


def test_numbers_of_a_file_are_written_as_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = tmp_path / "site.yaml"
    spec = "{priority: 0_100, containers: [{name: node, resources: {requests: {cpu: 2, memory: 1.5e9}}}]}"
    site.write_text(f"slots: 1\nkubernetes: {{pod_patch: {{spec: {spec}}}}}\n")
    assert main.main(["kubernetes", "jobs/quickstart.yaml", "--cluster", str(site), "--dry-run"]) == 0
    (pod,) = (t for d in yaml.safe_load_all(capsys.readouterr().out) for t in schemas.pod_templates(d))
    assert pod["spec"]["priority"] == 100
    requests = pod["spec"]["containers"][0]["resources"]["requests"]
    assert (requests["cpu"], float(requests["memory"])) == (2, 1.5e9)


def test_labels_stay_and_all_is_said_at_once() -> None:
    patch = {"metadata": {"labels": {"launcher/run": "x"}}, "spec": {"restartPolicy": "Always"}}
    with pytest.raises(PlanError) as refused:
        kubernetes.render(variants.decide({"pod_patch": patch}))
    assert len(refused.value.problems) == 2
    assert "changes label launcher/run" in str(refused.value)


def test_a_runtime_of_the_cluster_is_not_ours() -> None:
    fields = {"kind": "trainjob", "runtime": "torch-distributed", "memlock": "node", "pod_patch": PATCH}
    with pytest.raises(PlanError, match=r"leave kubernetes\.runtime out"):
        kubernetes.render(variants.decide(fields))


@pytest.mark.parametrize("kind", ["job", "jobset"])
@pytest.mark.parametrize("affinity", [None, {"nodeAffinity": None}, "terms"], ids=str)
def test_hosts_that_are_kept_off_stay_so_whatever_affinity_the_patch_has(kind: str, affinity: Any) -> None:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    if affinity == "terms":
        expressions = [{"key": "zone", "operator": "In", "values": ["on"]}]
        affinity = {"nodeAffinity": {required: {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}}
    made = variants.decide({"kind": kind, "pod_patch": {"spec": {"affinity": affinity}}})
    off = {"key": "metadata.name", "operator": "NotIn", "values": ["gpu-7"]}
    for pod in pods(made._replace(exclude=("gpu-7",))):
        (term,) = pod["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"]
        assert term["matchFields"] == [off]
        assert "matchExpressions" not in term or term["matchExpressions"][0]["values"] == ["on"]


def test_the_ranks_container_of_a_kind_that_calls_it_otherwise_is_named() -> None:
    patch = {"spec": {"containers": [{"name": "node", "tty": True}]}}
    with pytest.raises(PlanError) as refused:
        kubernetes.render(variants.decide({"kind": "pytorchjob", "pod_patch": patch}))
    assert "the ranks' is 'pytorch'; put another below initContainers" in str(refused.value)

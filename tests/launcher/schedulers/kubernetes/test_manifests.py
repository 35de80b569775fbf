"""Every manifest of variants.py: valid by the schemas and by a server's own rules, and what it promises."""

from __future__ import annotations

import copy
import functools
import json
import re
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import devices, rights
from tests.launcher.schedulers.kubernetes import audit, crds, schemas, variants


@functools.cache
def _parsed(name: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(variants.text(name), yaml.CSafeLoader))


def documents(name: str) -> list[dict[str, Any]]:
    return copy.deepcopy(_parsed(name))


def versions(name: str) -> tuple[str, ...]:
    """Claims of devices have had another form until 1.31; NVIDIA's driver for them needs 1.32, that of EFA 1.34."""
    return (schemas.NEWEST,) if devices.claims(variants.made(name)) else (schemas.OLDEST, schemas.NEWEST)


@pytest.mark.parametrize("name", variants.NAMES)
def test_fits_the_schemas(name: str) -> None:
    for version in versions(name):
        assert [(version, p) for d in documents(name) for p in schemas.problems(d, version)] == []


@pytest.mark.parametrize("kind", [kind for kind in variants.KINDS if kind != "job"])
def test_every_controllers_kind_is_held_to_its_definition(kind: str) -> None:
    broken = documents(f"{kind}-plain")[-1]
    assert broken["kind"] in crds.kinds()
    assert crds.problems(broken) == []
    broken["spec"]["sise"] = 3
    assert "sise" in " ".join(crds.problems(broken))


@pytest.mark.heavy
def test_definitions_are_packed_without_a_loss() -> None:
    """What is shared is written once; a server gets whole definitions."""
    whole = [json.loads(json.dumps(crd)) for crd in crds.definitions()]
    assert crds.packed(whole) == {key: crds._kept()[key] for key in ("shared", "definitions")}
    assert "$shared" not in json.dumps(whole)


def test_definitions_say_where_they_are_from() -> None:
    assert {source["license"] for source in crds._kept()["sources"]} == {"Apache-2.0"}
    named = " ".join(source["repository"] for source in crds._kept()["sources"])
    assert all(project in named for project in ("jobset", "lws", "kueue", "trainer", "mpi-operator"))


@pytest.mark.parametrize("name", variants.NAMES)
def test_passes_the_rules_of_a_server(name: str) -> None:
    assert audit.problems(documents(name)) == []


@pytest.mark.parametrize("name", variants.NAMES)
@pytest.mark.heavy
def test_is_the_same_for_yaml_1_1_and_1_2(name: str) -> None:
    """kubectl reads YAML 1.1, where `no` and `1_000` mean something else, and the launcher YAML 1.2."""
    assert list(YAML(typ="safe", pure=True).load_all(variants.text(name))) == documents(name)


@pytest.mark.parametrize("name", variants.NAMES)
def test_says_which_pod_security_it_needs(name: str) -> None:
    pods = [t for d in documents(name) for t in schemas.pod_templates(d)]
    if not pods:  # a TrainJob on a runtime of the cluster
        return
    said = re.search(r"# Pod Security: (?:the namespace must admit `)?(\w+)", variants.text(name))
    assert said
    assert {audit.security(pod["spec"]) for pod in pods} == {said[1]}


def test_is_restricted_unless_a_fabric_needs_more() -> None:
    for queue in variants.QUEUES:
        plan = variants.decide({**variants.QUEUES[queue], "memlock": "node"})
        text = kubernetes.render(plan)["manifest.yaml"]
        assert text.splitlines()[2] == "# Pod Security: restricted."


def test_fabric_asks_for_exactly_what_it_needs() -> None:
    pod = documents("job-infiniband")[-1]["spec"]["template"]["spec"]
    node = pod["containers"][0]
    assert node["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert "privileged" not in node["securityContext"]
    assert not pod.get("hostNetwork")
    assert "IPC_LOCK, as root: fabric infiniband pins memory" in variants.text("job-infiniband")


@pytest.mark.parametrize("name", variants.NAMES)
def test_every_pod_starts_the_node_entry(name: str) -> None:
    commands = [c["command"] for d in documents(name) for c in _nodes(d)]
    assert commands
    for command in commands:
        words = command[command.index("/opt/venv/bin/python") :]
        assert words[1] == f"/opt/job/{'preflight' if variants.made(name).preflight else 'node'}.py"
        words = words[words.index("--") + 1 :] if variants.made(name).preflight else words[2:]
        assert words[words.index("--hostfile") + 1].startswith("/job/hostfile")
        group = "-$(LWS_GROUP)" if name.startswith("leaderworkerset") else ""
        assert words[words.index("--folder") + 1] == f"/runs/{variants.made(name).id}{group}"
        assert words[words.index("--") + 1 :][:2] == ["-m", "workloads.pretrain"]
        assert not {"sshd", "mpirun", "deepspeed"} & set(command)


def _nodes(document: dict[str, Any]) -> list[dict[str, Any]]:
    found = [t["spec"]["containers"][0] for t in schemas.pod_templates(document)]
    trainer = document.get("spec", {}).get("trainer", {})
    return found + ([trainer] if "command" in trainer else [])


@pytest.mark.parametrize("name", variants.NAMES)
def test_hosts_are_the_pods(name: str) -> None:
    """The hostfile's names are those that the kind's controller gives its pods, each with the plan's slots."""
    plan, docs = variants.made(name), documents(name)
    main = docs[-1]["metadata"]["name"]
    last = plan.nodes - 1
    ends = {
        "job": [f"{main}-{i}.{main}" for i in range(plan.nodes)],
        "jobset": [f"{main}-node-0-{i}.{main}" for i in range(plan.nodes)],
        "trainjob": [f"{main}-node-0-{i}.{main}" for i in range(plan.nodes)],
        "mpijob": [f"{main}-launcher.{main}", *(f"{main}-worker-{i}.{main}" for i in range(last))],
        "pytorchjob": [f"{main}-master-0", *(f"{main}-worker-{i}" for i in range(last))],
    }
    data = docs[0]["data"]
    hosts = {
        key: [line.split() for line in text.splitlines()] for key, text in data.items() if "hostfile" in key
    }
    kind = plan.cluster.kubernetes.kind
    if kind == "leaderworkerset":
        expected = {
            f"hostfile-{g}": [f"{main}-{g}.{main}", *(f"{main}-{g}-{i}.{main}" for i in range(1, plan.nodes))]
            for g in range(plan.cluster.kubernetes.serve.replicas)
        }
    elif name == "jobset-leader-first":
        expected = {"hostfile": [f"{main}-leader-0-0.{main}", f"{main}-worker-0-0.{main}"]}
    else:
        expected = {"hostfile": ends[kind]}
    assert {key: [line[0] for line in lines] for key, lines in hosts.items()} == expected
    assert {line[1] for lines in hosts.values() for line in lines} == {f"slots={plan.slots}"}


@pytest.mark.parametrize("name", [n for n in variants.NAMES if n.startswith("job-")])
def test_service_and_policy_select_the_runs_own_pods(name: str) -> None:
    docs = {d["kind"]: d for d in documents(name)}
    labels = docs["Job"]["spec"]["template"]["metadata"]["labels"]
    chosen = docs["Service"]["spec"]["selector"]
    assert chosen.items() <= labels.items()
    assert chosen == {"launcher/run": variants.made(name).id}
    assert docs["Service"]["spec"]["publishNotReadyAddresses"] is True
    if variants.made(name).fabric.host_network:
        assert "NetworkPolicy" not in docs
        assert "no NetworkPolicy can protect it" in variants.text(name)
    else:
        policy = docs["NetworkPolicy"]["spec"]
        assert policy["podSelector"]["matchLabels"] == chosen
        port = variants.made(name).cluster.metrics_port
        scraped = [{"ports": [{"port": port, "protocol": "TCP"}]}] if port else []
        assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": chosen}}]}, *scraped]
        notes = docs["Job"]["spec"]["template"]["metadata"].get("annotations", {})
        assert notes.get("prometheus.io/port") == (str(port) if port else None)


def test_failures_are_told_apart() -> None:
    job = documents("job-plain")[-1]["spec"]
    rules = [(r["action"], r.get("onExitCodes", {}).get("values")) for r in job["podFailurePolicy"]["rules"]]
    assert rules == [("Ignore", None), ("FailJob", [64, 65, 73, 77, 137]), ("Ignore", [70, 75])]
    assert job["backoffLimit"] == variants.made("job-plain").job.restarts * 2
    spec = documents("jobset-plain")[-1]["spec"]
    inner = spec["replicatedJobs"][0]["template"]["spec"]
    assert inner["backoffLimit"] == 0
    fatal = next(r for r in spec["failurePolicy"]["rules"] if r["action"] == "FailJobSet")
    # the message of https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/controller/job/pod_failure_policy.go
    told = "Container node for pod training/x failed with exit code 64 matching FailJob rule at index 1"
    assert re.search(fatal["onJobFailureMessagePatterns"][0], told)
    assert inner["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [64, 65, 73, 77, 137]


@pytest.mark.parametrize("kind", ["job", "jobset", "trainjob"])
@pytest.mark.parametrize("codes", [[], [64, 3]])
def test_what_a_restart_would_not_cure_fails_whatever_fail_on_lists(kind: str, codes: list[int]) -> None:
    text = kubernetes.render(variants.decide({"kind": kind, "fail_on": codes}))["manifest.yaml"]
    assert "--restarts-by-code" in text
    assert f"values: {[*sorted(codes), 77]}" in text
    assert text.count("matching FailJob rule at index 1$") == (kind != "job")


def test_secrets_are_references_alone() -> None:
    for name in variants.NAMES:
        env = [e for d in documents(name) for c in _nodes(d) for e in c["env"] if e["name"] == "HF_TOKEN"]
        assert all(e["valueFrom"] == {"secretKeyRef": {"name": "hf-token", "key": "HF_TOKEN"}} for e in env)


def test_shared_memory_is_a_part_of_the_limit() -> None:
    pod = documents("job-everything")[-1]["spec"]["template"]["spec"]
    shm = next(v for v in pod["volumes"] if v["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "65536Mi"}
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "921600Mi"
    small = kubernetes.pods.shared_memory(variants.decide({"memory": "4GiB"}))
    assert small == 2 * 2**30  # half of it


UNKNOWN: dict[str, Any] = {"cpus": None, "memory": None}


@pytest.mark.parametrize("version", [schemas.OLDEST, schemas.NEWEST])
def test_the_role_fits_the_schemas(version: str) -> None:
    text = rights.role(rights.every(), "training")
    for document in yaml.load_all(text, yaml.CSafeLoader):
        assert schemas.problems(document, version) == []


@pytest.mark.parametrize("kind", variants.KINDS)
@pytest.mark.parametrize("fabric", ["tcp", "efa-p5"])  # efa: huge pages need a request of CPUs or memory
@pytest.mark.parametrize("gpu", [None, "h100-80gb"])
def test_every_pod_asks_for_cpus_and_memory(kind: str, fabric: str, gpu: str | None) -> None:
    """Whatever the cluster file leaves out: no pod is BestEffort, which is the first to be evicted."""
    plan = variants.decide({"kind": kind}, gpu=gpu, fabric=fabric, **UNKNOWN)
    for document in yaml.load_all(kubernetes.render(plan)["manifest.yaml"], yaml.CSafeLoader):
        for template in schemas.pod_templates(document):
            requests = template["spec"]["containers"][0]["resources"]["requests"]
            assert requests["cpu"] == "4000m"
            assert int(requests["memory"].removesuffix("Mi")) >= 8 * 512


def test_hosts_without_gpus_are_spread_over_nodes() -> None:
    plan = variants.decide({}, gpu=None, fabric="tcp", **UNKNOWN)
    job = list(yaml.load_all(kubernetes.render(plan)["manifest.yaml"], yaml.CSafeLoader))[-1]
    (constraint,) = job["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert constraint["labelSelector"]["matchLabels"].items() <= labels.items()
    assert "topologySpread" not in kubernetes.render(variants.decide({}))["manifest.yaml"]


def test_kueue_is_one_label_and_topology_is_on_the_pods() -> None:
    for kind in variants.KINDS:
        main = documents(f"{kind}-kueue")[-1]
        assert main["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
        assert main["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
        assert "suspend" not in main["spec"]
        templates = [t for d in documents(f"{kind}-kueue") for t in schemas.pod_templates(d)]
        notes = {t["metadata"]["annotations"]["kueue.x-k8s.io/podset-preferred-topology"] for t in templates}
        assert notes == {"cloud.google.com/gce-topology-block"}


def test_pod_groups_hold_all_hosts() -> None:
    for kind in variants.KINDS:
        for queue, scheduler in (("volcano", "volcano"), ("coscheduling", "scheduler-plugins-scheduler")):
            docs = documents(f"{kind}-{queue}")
            group = next(d for d in docs if d["kind"] == "PodGroup")
            assert group["spec"]["minMember"] == 2
            assert group["spec"]["minResources"]["nvidia.com/gpu"] == "16"
            for template in (t for d in docs for t in schemas.pod_templates(d)):
                assert template["spec"]["schedulerName"] == scheduler
                named = {**template["metadata"]["labels"], **template["metadata"].get("annotations", {})}
                key = (
                    "scheduling.k8s.io/group-name" if queue == "volcano" else "scheduling.x-k8s.io/pod-group"
                )
                assert named[key] == group["metadata"]["name"]


def test_every_object_tells_what_it_was_made_of() -> None:
    for name in variants.NAMES:
        for document in documents(name):
            labels, notes = document["metadata"]["labels"], document["metadata"]["annotations"]
            assert labels["app.kubernetes.io/managed-by"] == "launcher"
            assert labels["launcher/run"] == labels["app.kubernetes.io/instance"] == variants.made(name).id
            flavour = "cuda" if variants.made(name).gpu else "cpu"
            assert notes["launcher/image"] == f"{variants.made(name).cluster.image}:0123456789ab-{flavour}"
            assert notes.get("launcher/git-commit", "") == variants.made(name).workspace.commit
            assert re.fullmatch(r"[0-9a-f]{16}", notes["launcher/config-hash"])


def test_four_thousand_hosts_fit_into_one_object() -> None:
    for kind in variants.KINDS:
        text = kubernetes.render(variants.decide({"kind": kind}, {"nodes": 4096}))["manifest.yaml"]
        docs = list(yaml.load_all(text, yaml.CSafeLoader))
        assert len(text.encode()) < 1_500_000
        assert audit.problems(docs) == []
        (hostfile,) = (t for k, t in docs[0]["data"].items() if k.startswith("hostfile"))
        assert hostfile.count("\n") == 4096


def test_separate_files_are_the_same_objects() -> None:
    for name in variants.NAMES:
        files = kubernetes.separate({"manifest.yaml": variants.text(name)})
        order = yaml.load(files.pop("kustomization.yaml"), yaml.CSafeLoader)["resources"]
        assert order == list(files)
        assert [yaml.load(files[f], yaml.CSafeLoader) for f in order] == documents(name)

"""What only a server refuses is refused here, in our words, and no two runs get one name.

The cases are the errors that kube-apiserver 1.34 answered to broken manifests and that schemas do not see. Those that a
template decides, such as `completionMode`, cannot be asked for; test_manifests.py looks for them in what is rendered.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from launcher.errors import LauncherError, Place, PlanError, SpecError
from launcher.files import cluster as files_cluster
from launcher.files import load, validation
from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import checks, kinds
from tests.launcher.schedulers.kubernetes import variants

# --set of a cluster field → the message
FIELDS = {
    "namespace=Training": "'Training' is not a Kubernetes name",
    "runs=my_claim": "'my_claim' is not a Kubernetes name",
    "priority_class=High": "'High' is not a Kubernetes name",
    "image_pull_secrets=[a/b]": "'a/b' is not a Kubernetes name",
    "memory=64Gigs": "'64Gigs' is not a size",
    "cpus=64Gigs": "'64Gigs' is not a quantity",
    "cpus=-1": "'-1' is not a quantity",
    "resources={rdma/ib: 0.5}": "rdma/ib is counted in whole devices, not '0.5'",
    "resources={rdma/ib: 1Ki}": "rdma/ib is counted in whole devices, not '1Ki'",
    'cpus="٢"': "'٢' is not a quantity",
    'resources={rdma/ib: "٨"}': "'٨' is not a quantity",
    "resources={foo: 1}": "'foo' is no resource of Kubernetes; write domain.example/name",
    "resources={requests.nvidia.com/gpu: 1}": "is a quota's word; leave `requests.` out",
    "resources={rdma/ib: 99999999999999999999}": "is more than there can be",
    "resources={hugepages-2Mi: 3Mi}": "'3Mi' of hugepages-2Mi is no whole number of pages",
    "resources={hugepages-big: 3Mi}": "'hugepages-big' names no size of a page; write hugepages-2Mi",
    "resources={/ib: 1}": "'/ib' is not a key of Kubernetes",
    "queue=a b": "'a b' is not a label value",
    f"queue={'q' * 64}": "has 64 characters; 63 is the most",
    "queue_priority=-high": "'-high' is not a label value",
    "node_selector={gpu type: h100}": "'gpu type' is not a key of Kubernetes",
    "node_selector={gpu: h100_}": "'h100_' is not a label value",
    "labels={team: n/lp}": "'n/lp' is not a label value",
    "annotations={'a b': c}": "'a b' is not a key of Kubernetes",
    "topology=a b": "'a b' is not a key of Kubernetes",
    "serve.port=70000": "must be at most 65535, not 70000",
    "serve.health=ready": "'ready' does not start with '/'",
    "kind=jobs": "did you mean 'job'?",
    "tolerations=[{key: a, operator: Exists, value: b}]": "operator Exists takes no value",
    "tolerations=[{operator: Equal, value: b}]": "has no key",
    "tolerations=[{key: a, tolerationSeconds: 3}]": "tolerationSeconds needs `effect: NoExecute`",
    "tolerations=[{key: a, efect: NoSchedule}]": "did you mean 'effect'?",
    "affinity={nodeAffinty: {}}": "did you mean 'nodeAffinity'?",
    "fail_on=[0]": "must be at least 1",
    "user=-1": "must be at least 0",
}


@pytest.mark.parametrize("setting", FIELDS)
@pytest.mark.heavy
def test_field_is_refused_where_it_stands(setting: str) -> None:
    (stage,) = load.load("jobs/llama-7b.yaml", None, [f"cluster.kubernetes.{setting}"]).stages
    with pytest.raises(SpecError) as error:
        load.load_stage(stage, {})
    assert FIELDS[setting] in str(error.value)
    assert f"kubernetes.{setting.partition('=')[0]}" in str(error.value)


LONG = "x" * 40
# what only the whole tells: cluster.kubernetes, other cluster fields, job fields → the message
WHOLES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    (
        {},
        {"image": "Registry.example.com/Train"},
        {},
        "'Registry.example.com/Train' is not the name",
    ),
    ({}, {"image": " "}, {}, "is not the name of a container image"),
    ({}, {"image": "/images/train.sqsh"}, {}, "is a file; Kubernetes pulls images from a registry"),
    ({"kind": "jobset"}, {}, {"env": {"RUN_ATTEMPT": "1"}}, "env RUN_ATTEMPT is set by the launcher"),
    (
        {},
        {},
        {"env": {"TOKEN": {"secret": "HF_TOKEN"}}},
        "env TOKEN: secret 'HF_TOKEN' is not a Kubernetes name",
    ),
    (
        {},
        {"mounts": {"/tmp": "/scratch"}},
        {},
        "/tmp is mounted twice, as temporary files and as a mount of the",
    ),
    ({}, {"mounts": {"/dev/shm/": "/scratch"}}, {}, "/dev/shm is mounted twice, as shared memory"),
    ({}, {"mounts": {"/data": "/a", "/data/": "/b"}}, {}, "/data is mounted twice"),
    ({}, {"mounts": {"/": "/a"}}, {}, "a mount on / would hide the image"),
    ({}, {"mounts": {"/data": "/a/../b"}}, {}, "takes no '..' in a path of the host: /a/../b"),
    (
        {},
        {"fabric": "gcp-gib", "mounts": {"/usr/local/gib": "/x"}},
        {},
        "as a mount of the cluster and as a path of",
    ),
    ({"resources": {"nvidia.com/gpu": 4}}, {}, {}, "4 nvidia.com/gpu, but a host has 8 slots"),
    ({"resources": {"memory": "1Gi"}}, {}, {}, "memory is set by another field; use kubernetes.memory"),
    ({"resources": {"cpu": "1"}}, {}, {}, "cpu is set by another field; use kubernetes.cpus"),
    ({"cpus": "1000"}, {"cpus": 64}, {}, "kubernetes.cpus 1000 is more than the host's 64; leave it out"),
    ({"cpus": "64001m"}, {"cpus": 64}, {}, "kubernetes.cpus 64001m is more than the host's 64"),
    ({"memory": "100TB"}, {"memory": "1TB"}, {}, "kubernetes.memory 100 TB is more than the host's 1.0 TB"),
    ({"memory": "1KB"}, {}, {}, "kubernetes.memory of 1000 bytes is less than 1 MiB"),
    ({"shm": "1KiB"}, {}, {}, "kubernetes.shm of 1024 bytes is less than 1 MiB"),
    ({"labels": {"job-name": "mine"}}, {}, {}, "job-name is set by the launcher; choose another key"),
    ({"labels": {"controller-uid": "mine"}}, {}, {}, "controller-uid is set by the launcher"),
    ({"labels": {"jobset.sigs.k8s.io/x": "mine"}}, {}, {}, "jobset.sigs.k8s.io/x is set by the launcher"),
    ({"annotations": {"a": "x" * 300_000}}, {}, {}, "annotations are 300,001 bytes; an object holds 262,144"),
    ({"affinity": {"nodeAffinity": {"a": [math.inf]}}}, {}, {}, "holds a number that is not finite"),
    ({}, {"image": "a..b/x:1"}, {}, "image 'a..b/x:1' is not the name of a container image"),
    ({}, {"image": "r.io:99999/x:1"}, {}, "image 'r.io:99999/x:1' is not the name of a container image"),
    ({}, {"image": "r.io/t:täg"}, {}, "image 'r.io/t:täg' is not the name of a container image"),
    ({}, {"mounts": {"/opt/venv": "/a"}}, {}, "a mount on /opt/venv would hide the image's Python"),
    ({"shm": "64GiB", "memory": "64GiB"}, {}, {}, "is not less than the pod's memory"),
    ({}, {"fabric": "gcp-gib-slurm"}, {}, "fabric 'gcp-gib-slurm' is for slurm, not for kubernetes"),
    ({}, {"fabric": "loopback"}, {}, "fabric 'loopback' connects ranks of one machine"),
    ({"labels": {"launcher/run": "mine"}}, {}, {}, "launcher/run is set by the launcher"),
    ({"fail_on": [64, 75]}, {}, {}, "75 is the exit code of a run that was interrupted"),
    ({"leader_first": True}, {}, {}, "leader_first does not apply to kind 'job'; use kind: jobset"),
    ({"runtime": "torch-distributed"}, {}, {}, "runtime does not apply to kind 'job'; use kind: trainjob"),
    ({"serve": {"port": 80}}, {}, {}, "serve does not apply to kind 'job'; use kind: leaderworkerset"),
    (
        {"topology": {"label": "rack", "exclusive": True}},
        {},
        {},
        "kind 'job' does not support exclusive topology",
    ),
    ({"kind": "mpijob"}, {"fabric": "oci-h100"}, {}, "where MPIJob workers have no own host names"),
    (
        {"kind": "jobset", "leader_first": True},
        {"fabric": "oci-h100"},
        {},
        "where workers of leader_first have no own host names; leave it out",
    ),
    (
        {"kind": "jobset", "leader_first": True, "topology": {"label": "rack", "exclusive": True}},
        {},
        {},
        "topology.exclusive gives each Job of a JobSet a domain of its own, and with leader_first",
    ),
    ({"kind": "mpijob", "fail_on": [1]}, {}, {}, "fail_on does not apply to kind 'mpijob'"),
    ({"kind": "pytorchjob", "fail_on": []}, {}, {}, "fail_on does not apply to kind 'pytorchjob'"),
    ({"kind": "leaderworkerset", "fail_on": [1]}, {}, {}, "fail_on does not apply to kind 'leader"),
    ({}, {}, {"walltime": "106752d"}, "walltime of 9,223,372,800 s is more than the 9,223,372,036 s"),
    ({"image_pull_secrets": ["a", "b", "a"]}, {}, {}, "image_pull_secrets names a twice; name each once"),
    ({"queue_priority": "high"}, {}, {}, "queue_priority needs Kueue; name a `queue`"),
    ({"queue": "q", "queueing": "coscheduling"}, {}, {}, "coscheduling has no queues"),
    ({"topology": {"label": "rack", "tier": 2}}, {}, {}, "tier needs Volcano"),
    (
        {"topology": "rack", "queueing": "coscheduling", "affinity": {"podAffinity": {}}},
        *({}, {}, "kubernetes.topology is written as pod affinity, which would replace that of kubernetes."),
    ),
    (  # of Kueue without a queue too
        {"topology": "rack", "affinity": {"podAffinity": {}}},
        *({}, {}, "kubernetes.topology is written as pod affinity"),
    ),
    (
        {"kind": "leaderworkerset", "queueing": "volcano", "serve": {"replicas": 2}},
        *({}, {}, "volcano would schedule 2 groups as one gang"),
    ),
    (
        {"kind": "trainjob", "runtime": "r", "priority_class": "x"},
        {},
        {},
        "cannot give kubernetes.priority_class",
    ),
    (
        {"kind": "trainjob", "runtime": "r"},
        {"fabric": "gcp-tcpxo"},
        {},
        "cannot give sidecars (fabric gcp-tcpxo)",
    ),
    (
        {"kind": "trainjob", "runtime": "r", "trainer": "2.1"},
        {},
        {},
        "cannot give capabilities (fabric infiniband)",
    ),
    (
        {"kind": "trainjob", "runtime": "r", "trainer": "2.0", "memlock": "node", "topology": "rack"},
        *({}, {}, "cannot give kubernetes.affinity or topology"),
    ),
    (
        {},
        {},
        {"name": LONG, "nodes": 4096, "deepspeed": {"note": "x" * 1_000_000}},
        "a ConfigMap holds 1,048,576",
    ),
]


@pytest.mark.parametrize(
    ("kubernetes_", "cluster", "job", "message"), WHOLES, ids=[w[3][:40] for w in WHOLES]
)
@pytest.mark.heavy
def test_whole_is_refused(
    kubernetes_: dict[str, Any], cluster: dict[str, Any], job: dict[str, Any], message: str
) -> None:
    with pytest.raises(PlanError) as error:
        kubernetes.render(variants.decide(kubernetes_, job, **cluster))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "own", [{"queue": "q"}, {"queueing": "volcano", "topology": {"label": "rack", "tier": 2}}], ids=str
)
def test_a_topology_that_is_no_affinity_leaves_that_of_the_file(own: dict[str, Any]) -> None:
    affinity: dict[str, Any] = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    kubernetes.render(variants.decide({"topology": {"label": "rack"}, "affinity": affinity} | own))


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(PlanError) as error:
        kubernetes.render(
            variants.decide(
                {"kind": "jobset", "fail_on": [70, 75], "queue_priority": "x"},
                {"env": {"RUN_ATTEMPT": "1"}},
                image="A/B",
            )
        )
    assert len(error.value.problems) == 5


@pytest.mark.parametrize("kind", variants.KINDS)
@pytest.mark.parametrize("nodes", [1, 2, 11, 4096])
def test_long_names_are_shortened_with_their_hash(kind: str, nodes: int) -> None:
    """Whatever is put behind a name by its controller, a DNS label holds it; and different runs stay different."""
    names = set()
    for suffix in ("a", "b", "b-2"):
        plan = variants.decide({"kind": kind}, {"name": LONG, "nodes": nodes})
        plan = plan._replace(id=f"{LONG}-{'y' * 10}-{suffix}")
        name = kinds.name(plan)
        names.add(name)
        assert len(name) <= 56
        assert name == plan.id or name.startswith("xxxxx")
        for host in kinds.hosts(plan):
            first = host.partition(".")[0]
            pod = (
                f"{first}-abcde"
                if kind in {"job", "jobset", "trainjob"} or first.endswith("launcher")
                else first
            )
            assert len(pod) <= 63
    assert len(names) == 3


def test_index_of_a_pod_is_its_place_in_the_hostfile() -> None:
    completion = "batch.kubernetes.io/job-completion-index"
    role, replica = "training.kubeflow.org/replica-type", "training.kubeflow.org/replica-index"
    assert kinds.index("job", "r-3-abcde", {completion: "3"}) == 3
    assert kinds.index("job", "other", {}) is None
    part = "jobset.sigs.k8s.io/replicatedjob-name"
    assert kinds.index("jobset", "r-leader-0-0-abcde", {completion: "0", part: "leader"}) == 0
    assert kinds.index("jobset", "r-worker-0-0-abcde", {completion: "0", part: "worker"}) == 1
    assert kinds.index("mpijob", "r-launcher-abcde", {"training.kubeflow.org/job-role": "launcher"}) == 0
    assert kinds.index("mpijob", "r-worker-0", {replica: "0"}) == 1
    assert kinds.index("pytorchjob", "r-master-0", {role: "master", replica: "0"}) == 0
    assert kinds.index("pytorchjob", "r-worker-0", {role: "worker", replica: "0"}) == 1
    assert kinds.index("leaderworkerset", "r-1-2", {"leaderworkerset.sigs.k8s.io/worker-index": "2"}) == 2


def test_every_kind_of_the_cluster_file_has_a_template_and_a_path() -> None:
    named = validation.hint_of(files_cluster.Kubernetes, "kind")
    assert set(named.__args__) == set(kinds.KINDS) == set(variants.KINDS)
    assert all(entry.install or name == "job" for name, entry in kinds.KINDS.items())


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            {"kind": "leaderworkerset"},
            "walltime and restarts: a LeaderWorkerSet serves until it is cancelled",
        ),
        ({"kind": "trainjob", "runtime": "r", "trainer": "2.1"}, "walltime: a TrainJob of Trainer 2.1"),
        ({"kind": "trainjob", "runtime": "r"}, ""),
        ({"kind": "job"}, ""),
    ],
    ids=str,
)
def test_what_the_job_says_and_the_kind_does_not_heed_is_told(own: dict[str, Any], said: str) -> None:
    made = variants.decide(own)
    assert not list(checks.unheeded(made)), "a default is nobody's wish"
    place = Place("job.yaml", 6, 1)
    written = made._replace(places={"job": {("walltime",): place, ("restarts",): place}, "cluster": {}})
    told = [str(warning) for warning in kubernetes.warnings(written)]
    assert [text.startswith(f"job.yaml:6:1: {said}") for text in told] == ([True] if said else [])


def test_a_refusal_names_the_exit_code() -> None:
    with pytest.raises(LauncherError) as error:
        kubernetes.render(variants.decide({"fail_on": [75]}))
    assert error.value.exit_code == 3

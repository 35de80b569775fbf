"""Against a real API server: every manifest, strictly; the verbs; the Job controller on nodes that nobody runs.

Skipped without one; `--require-apiserver` makes that a failure. How to have one: apiserver.py.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from launcher.cli import main as cli_main
from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import rights
from tests.launcher.schedulers.kubernetes import broken, variants
from tests.real.apiserver import apiserver
from tests.real.apiserver.apiserver import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.apiserver

CRDS = {
    "jobset": "jobsets.jobset.x-k8s.io",
    "trainjob": "trainjobs.trainer.kubeflow.org",
    "mpijob": "mpijobs.kubeflow.org",
    "pytorchjob": "pytorchjobs.kubeflow.org",
    "leaderworkerset": "leaderworkersets.leaderworkerset.x-k8s.io",
}
# The definitions at hand are those of Trainer 2.3, which has dropped the older fields.
OLD = ("trainjob-on-torch-distributed-2.0", "trainjob-on-torch-distributed-2.1")
Object = dict[str, Any]


@pytest.fixture(scope="session")
def without(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Skips for the reason that it is given; with --require-apiserver no test may get lost, so it fails."""
    return pytest.fail if request.config.getoption("--require-apiserver") else pytest.skip


@pytest.fixture(scope="session")
def server(without: Callable[[str], None]) -> Iterator[Server]:
    why = apiserver.obstacle()
    if why:
        without(why)
    with Server() as running:
        yield running


@pytest.fixture
def site(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A job file, and this process's environment set so that the launcher finds the server. What it made is removed."""
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    (tmp_path / "site.yaml").write_text(
        f"slots: 2\nfabric: tcp\nimage: deepspeed-train:1\nkubernetes: {{namespace: {server.namespace}}}\n"
    )
    job = tmp_path / "job.yaml"
    job.write_text("name: demo\ncluster: site.yaml\nnodes: 2\nmodel: byte-gpt\nbatch: {micro: 1}\n")
    yield job
    kinds = ["jobs", "services", "networkpolicies", *(crd for crd in CRDS.values() if server.has(crd))]
    for kind in (*kinds, "configmaps"):
        words = ("-l", "app.kubernetes.io/managed-by=launcher", "--cascade=background", "--wait=false")
        server.kubectl("delete", kind, "-n", server.namespace, *words, check=False)
    # no kubelet ends the pods of nodes that nobody runs, and until they are gone their GPUs are taken
    gone = ("--all", "--force", "--grace-period=0", "--wait=false")
    server.kubectl("delete", "pods", "-n", server.namespace, *gone, check=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*words: str) -> tuple[int, str, str]:
        code = cli_main.main(words)
        return (code, *capsys.readouterr())

    return command


@pytest.fixture
def need(server: Server, without: Callable[[str], None]) -> Callable[[str], None]:
    """Gives up on a test where the server does not know a kind: one that is there may lack its controller."""

    def known(kind: str) -> None:
        if kind in CRDS and not server.has(CRDS[kind]):
            without(f"the server has no {CRDS[kind]}")

    return known


# Manifests.


@pytest.mark.parametrize(
    "name", [n for n in variants.NAMES if not n.endswith("coscheduling") and n not in OLD]
)
def test_manifest_is_accepted_without_a_warning(
    name: str, server: Server, need: Callable[[str], None], without: Callable[[str], None]
) -> None:
    need(variants.made(name).cluster.kubernetes.kind)
    if "volcano" in name and not server.has("podgroups.scheduling.volcano.sh"):
        without("this cluster has no Volcano")
    text = variants.text(name).replace('namespace: "training"', f'namespace: "{server.namespace}"')
    words = ("create", "--dry-run=server", "--validate=strict", "-n", server.namespace, "-f", "-")
    done = server.kubectl(*words, stdin=text, check=False)
    # a name that the server's own rules for host names find long is only a warning, and ours are never long
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == text.count("\nkind: ")


def test_the_role_is_accepted(server: Server) -> None:
    text = rights.role(rights.every(), server.namespace)
    done = server.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("fault", broken.BROKEN)
def test_what_the_audit_refuses_the_server_refuses(fault: str, server: Server) -> None:
    documents = list(yaml.load_all(variants.text("job-plain"), yaml.CSafeLoader))
    text = yaml.safe_dump_all(broken.broken(documents, fault))
    words = ("create", "--dry-run=server", "--validate=strict", "-n", server.namespace, "-f", "-")
    done = server.kubectl(*words, stdin=text, check=False)
    if fault == "pods replaced while they end" and done.returncode == 0:
        pytest.xfail("a server older than 1.34 does not see this one")
    assert done.returncode != 0


def test_apply_by_hand_then_again_changes_nothing(server: Server) -> None:
    """A platform engineer's way: rendered text in git, applied with kubectl."""
    text = kubernetes.render(variants.decide({"namespace": server.namespace}, {"name": "by-hand"}))[
        "manifest.yaml"
    ]
    first = server.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    assert first.stderr == ""
    before = {(o["kind"], o["metadata"]["generation"]) for o in _all(server) if "generation" in o["metadata"]}
    server.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    assert {
        (o["kind"], o["metadata"]["generation"]) for o in _all(server) if "generation" in o["metadata"]
    } == before
    server.kubectl("delete", "-f", "-", "--wait=false", stdin=text)


def _all(server: Server) -> list[Object]:
    found: list[Object] = server.get("jobs,services,configmaps", "-l", "app.kubernetes.io/name=by-hand")[
        "items"
    ]
    return found


# Verbs.


@pytest.mark.parametrize("kind", variants.KINDS)
def test_apply_status_diff_and_cancel(
    kind: str,
    server: Server,
    site: Path,
    run: Callable[..., tuple[int, str, str]],
    need: Callable[[str], None],
) -> None:
    need(kind)
    chosen = ("--set", f"cluster.kubernetes.kind={kind}")
    code, out, err = run("kubernetes", str(site), *chosen)
    assert code == 0, err
    name = out.strip()
    plural = CRDS.get(kind, "jobs")
    main = server.get(plural, name)
    managers = {m["manager"]: m["operation"] for m in main["metadata"]["managedFields"]}
    assert managers["launcher"] == "Apply"
    config_map = server.get("configmap", name)
    assert config_map["metadata"]["ownerReferences"][0]["uid"] == main["metadata"]["uid"]
    code, out, err = run("status", name, "--json")
    assert (code, json.loads(out)["state"]) == (0, "PENDING"), err
    assert run("diff", str(site), *chosen) == (0, "", "")
    code, out, _ = run("diff", str(site), *chosen, "--set", "batch.micro=2")
    assert code == 1
    assert "train_micro_batch_size_per_gpu" in out
    assert run("cancel", name)[0] == 0
    assert server.kubectl("get", "configmap", name, "-n", server.namespace, check=False).returncode == 1


def test_rehearsal_of_every_kind(
    server: Server, site: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    for kind in variants.KINDS:
        if kind == "trainjob" or (kind in CRDS and not server.has(CRDS[kind])):
            continue
        code, out, err = run(
            "kubernetes", str(site), "--server-dry-run", "--set", f"cluster.kubernetes.kind={kind}"
        )
        assert code == 0, err
        assert all(line.endswith(" ok") for line in out.splitlines())


def test_refusals(
    server: Server, site: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = run("kubernetes", str(site), "--set", "cluster.kubernetes.namespace=nowhere-at-all")
    assert code == 4
    assert "namespace 'nowhere-at-all' does not exist" in err
    if not apiserver.existing():
        code, _, err = run("kubernetes", str(site), "--set", "cluster.kubernetes.context=viewer")
        assert code == 4
        assert 'User "viewer" cannot create resource "configmaps"' in err
        code, _, err = run("kubernetes", str(site), "--set", "cluster.kubernetes.context=expired")
        assert code == 4
        assert "(401)" in err
        code, _, err = run("kubernetes", str(site), "--set", "cluster.kubernetes.queueing=coscheduling")
        assert code == 4
        assert "the cluster does not know kind PodGroup (scheduling.x-k8s.io/v1alpha1)" in err
    found = server.get("configmaps,services,jobs", "-l", "app.kubernetes.io/managed-by=launcher")
    assert found["items"] == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_name_that_is_taken(server: Server, site: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    text = run("kubernetes", str(site), "--dry-run")[1]
    server.kubectl("apply", "--server-side", "-f", "-", stdin=text)
    code, _, err = run("kubernetes", str(site))
    assert code == 4
    assert "exists already" in err
    code, _, err = run("kubernetes", str(site), "--name", "mine")
    assert code == 0, err


def test_fields_of_another_manager(
    server: Server, site: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    name = run("kubernetes", str(site))[1].strip()
    patch = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": server.namespace},
        "spec": {"publishNotReadyAddresses": False},
    }
    force = ("--force-conflicts", "--field-manager=somebody", "-f", "-")
    server.kubectl("apply", "--server-side", *force, stdin=json.dumps(patch))
    code, out, _ = run("diff", str(site))
    assert code == 1
    # false is left out of what the server stores and answers
    assert "\n+  publishNotReadyAddresses: true\n" in out
    assert "publishNotReadyAddresses: false" not in out
    code, _, err = run("kubernetes", str(site), "--server-dry-run")
    assert code == 4
    assert "somebody" in err
    assert "another program owns these fields" in err


# The Job controller and the scheduler, on nodes that nobody runs.


@pytest.fixture
def nodes(server: Server, without: Callable[[str], None]) -> Iterator[list[str]]:
    if not server.controllers:
        without("kube-controller-manager and kube-scheduler are not beside kube-apiserver")
    names = ["gpu-0", "gpu-1"]
    for name in names:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"rack": "a"}}}
        server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(node))
        room = {"cpu": "96", "memory": "1000Gi", "pods": "110", "nvidia.com/gpu": "8"}
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "ByHand",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        status = {"status": {"capacity": room, "allocatable": room, "conditions": [ready]}}
        server.kubectl(
            "patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status)
        )
        server.kubectl("taint", "node", name, "node.kubernetes.io/not-ready-", check=False)
    yield names
    server.kubectl("delete", "node", *names, "--wait=false", check=False)


def _pods(server: Server, run_: str) -> list[Object]:
    found: list[Object] = server.get("pods", "-l", f"launcher/run={run_}")["items"]
    return [p for p in found if not p["metadata"].get("deletionTimestamp")]


def _until(what: Callable[[], Any], limit: float = 60) -> Any:
    end = time.monotonic() + limit
    while not (found := what()):
        assert time.monotonic() < end, f"not within {limit} s"
        time.sleep(0.25)
    return found


def _end(server: Server, pod: Object, code: int) -> None:
    """What a kubelet says of a pod whose container has ended."""
    at = "2026-01-01T00:00:00Z"
    ended = {"exitCode": code, "startedAt": at, "finishedAt": at, "containerID": "x://1", "reason": "Error"}
    container = {
        "name": "node",
        "image": "deepspeed-train:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
    }
    status = {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{**container, "state": {"terminated": ended}}],
    }
    words = (
        "-n",
        server.namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )
    server.kubectl("patch", "pod", pod["metadata"]["name"], *words)


def _begin(server: Server, run_: str, count: int = 2) -> list[Object]:
    """The run's pods once they are all placed."""

    def placed() -> list[Object]:
        pods = [
            p for p in _pods(server, run_) if p["spec"].get("nodeName") and p["status"]["phase"] == "Pending"
        ]
        return pods if len(pods) == count else []

    return list(_until(placed))


GPUS = "gpu: h100-80gb\nslots: 8\nfabric: infiniband\nimage: deepspeed-train:1\nkubernetes: {namespace: %s}\n"


@pytest.fixture
def placed(
    server: Server, nodes: list[str], site: Path, run: Callable[..., tuple[int, str, str]]
) -> tuple[str, list[Object]]:
    """A run of two hosts of eight GPUs, whose pods are on the two nodes."""
    (site.parent / "site.yaml").write_text(GPUS % server.namespace)
    code, out, err = run("kubernetes", str(site), "--force")
    assert code == 0, err
    return out.strip(), _begin(server, out.strip())


def test_pods_have_the_names_in_the_hostfile(server: Server, placed: tuple[str, list[Object]]) -> None:
    name, pods = placed
    hosts = {f"{p['spec']['hostname']}.{p['spec']['subdomain']}" for p in pods}
    hostfile = server.get("configmap", name)["data"]["hostfile"]
    assert hosts == {line.split()[0] for line in hostfile.splitlines()}
    assert {p["spec"]["nodeName"] for p in pods} == {"gpu-0", "gpu-1"}  # eight GPUs each: one pod a node
    for pod in pods:
        env = {e["name"]: e for e in pod["spec"]["containers"][0]["env"]}
        field = env["JOB_COMPLETION_INDEX"]["valueFrom"]["fieldRef"]["fieldPath"]
        assert "job-completion-index" in field


def test_a_saved_attempt_is_started_again_and_does_not_count(
    server: Server, placed: tuple[str, list[Object]], run: Callable[..., tuple[int, str, str]]
) -> None:
    name, pods = placed
    for pod in pods:
        _end(server, pod, 75)
    again = _begin(server, name)
    assert {p["metadata"]["uid"] for p in again}.isdisjoint({p["metadata"]["uid"] for p in pods})
    assert server.get("job", name)["status"].get("failed", 0) == 0
    for pod in again:
        _end(server, pod, 0)
    _until(lambda: json.loads(run("status", name, "--json")[1])["state"] == "SUCCEEDED")


def test_bad_input_fails_the_job_at_once(
    server: Server, placed: tuple[str, list[Object]], run: Callable[..., tuple[int, str, str]]
) -> None:
    name, pods = placed
    for pod in pods:  # the node entries end together; and a pod that nobody ends would hold the Job
        _end(server, pod, 64)
    now = _until(
        lambda: (
            found if (found := json.loads(run("status", name, "--json")[1]))["state"] == "FAILED" else None
        )
    )
    assert now["exit_code"] == 64
    assert "starting again would not help" in now["reason"]
    assert "a mistake in the job" in now["reason"]


def test_another_failure_counts(server: Server, placed: tuple[str, list[Object]]) -> None:
    name, pods = placed
    for pod in pods:
        _end(server, pod, 1)
    _begin(server, name)
    assert server.get("job", name)["status"]["failed"] == 2


def test_a_third_host_of_gpus_is_not_there(
    server: Server, placed: tuple[str, list[Object]], site: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = run("kubernetes", str(site), "--force", "--name", "second")
    assert code == 0, err
    reason = _until(
        lambda: (
            r
            if "no node fits" in (r := json.loads(run("status", out.strip(), "--json")[1])["reason"])
            else None
        )
    )
    assert "Insufficient nvidia.com/gpu" in reason

"""The fixture of tests on fakeserver.py: `cluster`, the server with kubeconfigs, empty for each test.

Owns the process and what a test tells it; `apiserver.py` owns the real one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
JOB = """name: demo
cluster: site.yaml
nodes: 2
model: byte-gpt
batch: {micro: 1}
walltime: 1h
"""
SITE = """slots: 2
fabric: tcp
image: registry.example.com/deepspeed-train:1
kubernetes: {runs: runs}
"""


class Cluster:
    """A running server. `run` is a launcher command; the rest is what a controller or a kubelet would do."""

    def __init__(self, port: int, folder: Path) -> None:
        self.url, self.folder = f"http://127.0.0.1:{port}", folder

    def kubeconfig(self, current: str = "admin", server: str = "", authority: Path | None = None) -> Path:
        """A kubeconfig with a context for each user, all of namespace `training`."""
        trust = {"certificate-authority": str(authority)} if authority else {}
        users = ("admin", "viewer", "member", "expired")
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": current,
            "clusters": [{"name": "fake", "cluster": {"server": server or self.url, **trust}}],
            "users": [{"name": u, "user": {"token": u}} for u in users],
            "contexts": [
                {"name": u, "context": {"cluster": "fake", "user": u, "namespace": "training"}} for u in users
            ],
        }
        path = self.folder / "kubeconfig"
        path.write_text(json.dumps(made))
        return path

    def tell(self, do: str, **what: Any) -> Any:
        body = json.dumps({"do": do, **what}).encode()
        request = urllib.request.Request(f"{self.url}/_test", data=body, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def objects(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(plural, name) → object, of every namespace."""
        return {(plural, name): document for plural, _, name, document in self.tell("objects")}

    def pod(self, run: str, index: int, state: str = "running", uid: str = "", **status: Any) -> str:
        """Make the pod of a Job's index, in a state of its container. Returns its name."""
        name = f"{run}-{index}-{uid or 'abcde'}"
        states = {
            "running": {"running": {}},
            "creating": {"waiting": {"reason": "ContainerCreating"}},
            "none": None,
        }
        container = {
            "name": "node",
            "image": "deepspeed-train:1",
            "state": status.pop("container", states.get(state)),
        }
        phase = {"running": "Running", "creating": "Pending", "none": "Pending"}.get(state, state)
        document = {
            "kind": "Pod",
            "metadata": {
                "name": name,
                "uid": f"pod-{name}",
                "creationTimestamp": status.pop("made", "2026-01-01T00:00:00Z"),
                "labels": {"launcher/run": run, "batch.kubernetes.io/job-completion-index": str(index)},
                **status.pop("metadata", {}),
            },
            "spec": {"hostname": f"{run}-{index}", **status.pop("spec", {})},
            "status": {
                "phase": phase,
                "containerStatuses": [container] if container["state"] else [],
                **status,
            },
        }
        self.tell("put", plural="pods", object=document)
        return name

    def log(self, pod: str, *lines: str, open: bool = False) -> None:
        """Add stamped lines to a pod's log; an open one is followed for more."""
        self.tell("log", pod=pod, lines=list(lines), open=open)


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, HERE / "fakeserver.py"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Another server, over TLS: its port, and the certificate to trust."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key", folder / "certificate"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=here", "-days", "2"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    server = [sys.executable, str(HERE / "fakeserver.py"), "--tls", str(certificate), str(key)]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline()), certificate
        finally:
            process.terminate()


@pytest.fixture
def cluster(fake_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The server, empty, and this process's environment set so that the launcher finds it, and asks it often."""
    made = Cluster(fake_server, tmp_path)
    made.tell("reset")
    made.tell("rules", without=[])
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig()))
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("launcher.reports.progress._POLL_SHARED", 0.02)
    monkeypatch.setattr("launcher.reports.progress._BEAT", 0.01)
    for module in ("podlogs", "applying", "fetching"):
        monkeypatch.setattr(f"launcher.schedulers.kubernetes.{module}._PAUSE", 0.02)
    return made


@pytest.fixture
def job(tmp_path: Path) -> str:
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "job.yaml").write_text(JOB)
    return str(tmp_path / "job.yaml")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A launcher command: (exit code, stdout, stderr)."""

    def command(*words: str) -> tuple[int, str, str]:
        try:
            code = main.main(words)
        except SystemExit as error:
            code = int(error.code or 0)
        return (code, *capsys.readouterr())

    return command

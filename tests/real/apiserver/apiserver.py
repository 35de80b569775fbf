"""A real API server for tests: etcd and kube-apiserver by the envtest convention, or a cluster that is there.

    KUBEBUILDER_ASSETS=DIR     a folder with etcd, kube-apiserver and kubectl (`setup-envtest use -p path` makes one);
                               with kube-controller-manager and kube-scheduler in it, the Job controller is tested too
    USE_EXISTING_CLUSTER=true  the kubeconfig's cluster instead, in a namespace of its own

Owns finding the programs, starting and stopping them, and what the server needs to know before a test: custom
resources, namespaces, users. https://book.kubebuilder.io/reference/envtest.html
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.launcher.schedulers.kubernetes import crds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

NEEDED = ("etcd", "kube-apiserver", "kubectl")
CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
_READY = 120.0  # seconds; 6 to 10 on an idle machine
# Every process gets SIGKILL when the one that started it dies, however it dies: a killed pytest leaves none.
_DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()


def find(name: str) -> str | None:
    """The program, from KUBEBUILDER_ASSETS, else from PATH."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets) / name, os.X_OK):
        return str(Path(assets) / name)
    return shutil.which(name)


def existing() -> bool:
    return os.environ.get("USE_EXISTING_CLUSTER", "").lower() in {"1", "true"}


def obstacle() -> str:
    """Why there is no server; '' when there is one."""
    wanted = ("kubectl",) if existing() else NEEDED
    missing = [name for name in wanted if not find(name)]
    hint = "set KUBEBUILDER_ASSETS to a folder that has them, or USE_EXISTING_CLUSTER=true"
    return f"no {', '.join(missing)}: {hint}" if missing else ""


class Server:
    """A context manager: the server is ready on entry, and nothing of it is left after exit.

    `folder` holds everything it writes, with a log for each program; `kubeconfig` has a context for each user.
    """

    namespace = "training"

    def __init__(self) -> None:
        self.controllers = not existing() and all(find(name) for name in CONTROLLERS)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Server:
        self.folder = Path(tempfile.mkdtemp(prefix="apiserver-"))
        try:
            self._attach() if existing() else self._start()
            self._prepare()
        except BaseException:
            self._stop(keep=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if existing():
            self.kubectl("delete", "namespace", self.namespace, "--wait=false", check=False)
        self._stop(keep=False)

    def kubectl(
        self, *words: str, stdin: str | None = None, check: bool = True, context: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, or as the user of `context`. Raises RuntimeError when it fails."""
        program = find("kubectl")
        assert program
        chosen = ["--context", context] if context else []
        done = subprocess.run(
            [program, "--kubeconfig", str(self.kubeconfig), *chosen, *words],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr}")
        return done

    def get(self, *words: str) -> Any:
        """What `kubectl get` finds."""
        return json.loads(
            self.kubectl("get", "-n", self.namespace, *words, "-o", "json", "--show-managed-fields").stdout
        )

    def has(self, kind: str) -> bool:
        """Whether the server knows the kind (its plural and group: jobsets.jobset.x-k8s.io)."""
        return self.kubectl("get", "crd", kind, check=False).returncode == 0

    def _attach(self) -> None:
        config = self.folder / "kubeconfig"
        program = find("kubectl")
        assert program
        words = [program, "config", "view", "--raw", "--minify", "--flatten"]
        config.write_bytes(subprocess.run(words, check=True, capture_output=True).stdout)
        self.kubeconfig = config
        self.namespace = f"launcher-test-{secrets.token_hex(3)}"

    def _start(self) -> None:
        etcd, peer, port, *more = _free_ports(5)
        certificates, key = self.folder / "certificates", self.folder / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = {"admin": secrets.token_hex(16), "viewer": secrets.token_hex(16)}
        users = f"{tokens['admin']},admin,admin,system:masters\n{tokens['viewer']},viewer,viewer\n"
        (self.folder / "tokens.csv").write_text(users)
        self._spawn("etcd", _etcd(self.folder / "etcd", etcd, peer))
        self._spawn("kube-apiserver", _apiserver(self.folder, etcd, port))
        self._write_kubeconfig(f"https://127.0.0.1:{port}", certificates / "apiserver.crt", tokens)
        self._wait_until_ready()
        if self.controllers:
            config = str(self.kubeconfig)
            own = [
                f"--{name}={config}"
                for name in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
            ]
            own += ["--leader-elect=false", "--bind-address=127.0.0.1"]
            # no node-lifecycle: nodes made by hand have no kubelet that would keep them ready
            manager = ["--controllers=*,-node-lifecycle-controller"]
            manager += [
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={certificates}/apiserver.crt",
            ]
            for name, extra, own_port in (
                ("kube-controller-manager", manager, more[0]),
                ("kube-scheduler", [], more[1]),
            ):
                folder = f"--cert-dir={self.folder}/{name}"
                self._spawn(name, [*own, *extra, f"--secure-port={own_port}", folder])

    def _write_kubeconfig(self, url: str, authority: Path, tokens: Mapping[str, str]) -> None:
        users = {**tokens, "expired": "0" * 32}
        made = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "admin",
            "clusters": [
                {"name": "test", "cluster": {"server": url, "certificate-authority": str(authority)}}
            ],
            "users": [{"name": name, "user": {"token": token}} for name, token in users.items()],
            "contexts": [
                {"name": n, "context": {"cluster": "test", "user": n, "namespace": self.namespace}}
                for n in users
            ],
        }
        self.kubeconfig = self.folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(made))

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _READY
        while self.kubectl("get", "--raw", "/readyz", check=False).stdout != "ok":
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(
                        f"{process.args!r} ended with {process.returncode}; logs: {self.folder}"
                    )
            if time.monotonic() > end:
                raise TimeoutError(f"the server is not ready after {_READY} s; logs: {self.folder}")
            time.sleep(0.25)

    def _prepare(self) -> None:
        """Custom resources and the namespace."""
        if not existing():
            for crd in (*crds.definitions(), POD_GROUP):
                # server-side: several are larger than kubectl's annotation may be
                self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(crd))
            self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        self.kubectl("create", "namespace", self.namespace)

    def _spawn(self, name: str, words: Sequence[str]) -> None:
        program = find(name)
        assert program
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [*_DIES_WITH_PARENT, program, *words]
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._processes.append(process)

    def _stop(self, keep: bool) -> None:
        """In reverse order: an API server without its etcd does not end by itself."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def _etcd(folder: Path, port: int, peer: int) -> list[str]:
    url, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        *(f"--data-dir={folder}", f"--listen-client-urls={url}", f"--advertise-client-urls={url}"),
        *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
        *(f"--initial-cluster=default={peers}", "--unsafe-no-fsync", "--log-level=warn"),
    ]


def _apiserver(folder: Path, etcd: int, port: int) -> list[str]:
    return [
        *(f"--etcd-servers=http://127.0.0.1:{etcd}", f"--secure-port={port}", "--bind-address=127.0.0.1"),
        *(
            "--advertise-address=127.0.0.1",
            f"--cert-dir={folder}/certificates",
            "--endpoint-reconciler-type=none",
        ),
        *(
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder}/sa.key",
        ),
        *(f"--service-account-signing-key-file={folder}/sa.key", "--service-cluster-ip-range=10.96.0.0/16"),
        *(
            "--authorization-mode=Node,RBAC",
            f"--token-auth-file={folder}/tokens.csv",
            "--allow-privileged=true",
        ),
        # without a controller manager no default service account is ever made, and every pod would be refused
        *("--profiling=false", "--disable-admission-plugins=ServiceAccount"),
    ]


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


# Volcano's PodGroup, its spec unchecked: its own definition is in no package registry. That of coscheduling is left
# out, so that one kind is unknown to the server.
POD_GROUP: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podgroups.scheduling.volcano.sh"},
    "spec": {
        "group": "scheduling.volcano.sh",
        "names": {
            "kind": "PodGroup",
            "listKind": "PodGroupList",
            "plural": "podgroups",
            "singular": "podgroup",
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
            }
        ],
    },
}

"""Runs the pods of a rendered manifest for real on one Linux machine, each as a host of its own.

Owns what a controller adds to a pod (its name and index), what a kubelet makes of it (variables, files, volumes,
rights, signals) and the network between pods; pod.py is the pod's first process. Nothing of the manifest is changed:
its command runs as it stands, in new network, mount, UTS, IPC and PID namespaces, with names that resolve.

Needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN). The machine itself gets one bridge and one directory under /tmp.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import ROOT
from tests.launcher.schedulers.kubernetes.test_values import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

Object = dict[str, Any]
HERE = Path(__file__).parent
_DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
# docker/Dockerfile's ENV, for the cpu flavour
IMAGE_ENV = {
    "PATH": "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DS_ACCELERATOR": "cpu",
    "PYTHONPATH": "/opt/job",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "VIRTUAL_ENV": "/opt/venv",
    "HOME": "/tmp",
    "USER": "train",
}


@dataclass(frozen=True)
class Identity:
    """What a controller makes of a pod template: host name, labels, and variables that it adds."""

    host: str
    subdomain: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


def identities(
    kind: str, name: str, template: Object, part: str, count: int, first: int = 0
) -> list[Identity]:
    """The pods of a template as the kind's controller makes them; `part` is what the kind calls it."""
    labels = template["metadata"].get("labels", {})
    made = []
    for i in range(count):
        completion = {"JOB_COMPLETION_INDEX": str(i)}
        if kind == "job":
            made.append(Identity(f"{name}-{i}", template["spec"]["subdomain"], labels, completion))
        elif kind in {"jobset", "trainjob"}:
            attempt = {**labels, "jobset.sigs.k8s.io/restart-attempt": "0"}
            made.append(Identity(f"{name}-{part}-0-{i}", name, attempt, completion))
        elif kind == "mpijob":
            host = f"{name}-launcher" if part == "Launcher" else f"{name}-worker-{i}"
            made.append(Identity(host, name, labels, {"OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10"}))
        elif kind == "pytorchjob":
            env = {
                "RANK": str(first + i),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": f"{name}-master-0",
                "MASTER_PORT": "23456",
            }
            made.append(Identity(f"{name}-{part.lower()}-{i}", "", labels, env))
        else:
            group = {**labels, "leaderworkerset.sigs.k8s.io/group-index": "0"}
            host = f"{name}-0" if part == "leaderTemplate" else f"{name}-0-{i + 1}"
            made.append(
                Identity(host, name, group, {"LWS_WORKER_INDEX": str(first + i), "LWS_GROUP_SIZE": "2"})
            )
    return made


class Pod:
    """A pod that runs, or has ended."""

    def __init__(self, identity: Identity, process: subprocess.Popen[bytes], log: Path) -> None:
        self.identity, self.process, self._log = identity, process, log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def first_pid(self) -> int:
        """The pod's first process: unshare's only child."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def signal(self, number: int) -> None:
        """What the kubelet sends to a container's first process."""
        with contextlib.suppress(OSError, IndexError):
            os.kill(self.first_pid, number)

    def wait(self, timeout: float) -> int:
        """The container's exit code."""
        code = self.process.wait(timeout)
        return code if code >= 0 else 128 - code


class Kubelet:
    """A context manager: pods share its network and its claims, and nothing runs after exit."""

    def __init__(
        self, claims: Mapping[str, Path], secrets: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        self.claims: dict[str, Path] = dict(claims)
        self.secrets = secrets or {}
        self.pods: list[Pod] = []

    def __enter__(self) -> Kubelet:
        self.folder = Path(tempfile.mkdtemp(prefix="pods-", dir="/tmp"))
        self.number, self._reservation = _reserve_network()
        self.bridge = f"pods-br{self.number}"
        _sh("ip", "link", "del", self.bridge, check=False)  # left by a killed test run
        _sh("ip", "link", "add", self.bridge, "type", "bridge")
        _sh("ip", "link", "set", self.bridge, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pod in self.pods:
            if pod.process.poll() is None:
                pod.signal(signal.SIGKILL)
        for pod in self.pods:
            pod.process.wait(20)
        _sh("ip", "link", "del", self.bridge, check=False)
        self._reservation.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, config_map: Object, templates: list[tuple[Object, Identity]]) -> list[Pod]:
        """Start a pod of each (template, identity). They are in one network and know each other's names."""
        hosts = "127.0.0.1 localhost\n::1 localhost\n"
        for n, (_, identity) in enumerate(templates):
            full = f"{identity.host}.{identity.subdomain}" if identity.subdomain else ""
            hosts += f"{self._address(n)} {full} {identity.host}\n"
        (self.folder / "hosts").write_text(hosts)
        started = [self._start(n, config_map, *entry) for n, entry in enumerate(templates)]
        self.pods += started
        return started

    def _address(self, n: int) -> str:
        return f"10.201.{self.number}.{n + 1}"

    def _start(self, n: int, config_map: Object, template: Object, identity: Identity) -> Pod:
        folder = Path(tempfile.mkdtemp(prefix=f"{n}-", dir=self.folder))
        path = folder / "spec.json"
        path.write_text(json.dumps(self._spec(folder, config_map, template["spec"], identity)))
        ready = folder / "network"
        os.mkfifo(ready)
        inside = f"read -r _ <{ready}; ip link set lo up; exec {sys.executable} {HERE / 'pod.py'} {path}"
        namespaces = ("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
        log = folder / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*_DIES_WITH_PARENT, *namespaces, "bash", "-c", inside],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        pod = Pod(identity, process, log)
        self._connect(n, pod)
        ready.write_text("\n")
        return pod

    def _connect(self, n: int, pod: Pod) -> None:
        """A cable from the pod to the bridge."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(OSError, IndexError):
                pid = pod.first_pid
                break
            time.sleep(0.01)
        else:
            raise TimeoutError(f"{pod.identity.host} has no first process: {pod.log}")
        cable = f"pods{self.number}-{n}"
        _sh("ip", "link", "del", cable, check=False)
        _sh("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _sh("ip", "link", "set", cable, "master", self.bridge, "up")
        inside = ("nsenter", "--net", "--target", str(pid), "--")
        _sh(*inside, "ip", "addr", "add", f"{self._address(n)}/24", "dev", "eth0")
        _sh(*inside, "ip", "link", "set", "eth0", "up")

    def _spec(self, folder: Path, config_map: Object, pod: Object, identity: Identity) -> Object:
        """What pod.py needs, from the pod's spec."""
        container = pod["containers"][0]
        env = self._environment(container, identity)
        binds: dict[str, tuple[str, bool]] = {
            "/opt/job": (str(ROOT / "docker"), True),
            "/opt/venv": (sys.prefix, True),
            "/etc/hosts": (str(self.folder / "hosts"), True),
        }
        tmpfs: dict[str, str] = {}
        volumes = {v["name"]: v for v in pod["volumes"]}
        for mount in container["volumeMounts"]:
            volume, inside = volumes[mount["name"]], mount["mountPath"]
            if "emptyDir" in volume:
                tmpfs[inside] = volume["emptyDir"].get("sizeLimit", "").removesuffix("i")
            else:
                source = self._source(folder, volume, config_map, pod["securityContext"])
                binds[inside] = (str(source), mount.get("readOnly", False))
        context = {**pod["securityContext"], **container["securityContext"]}
        return {
            "hostname": identity.host,
            "folder": str(folder),
            "interpreter": sys.executable,
            "binds": binds,
            "tmpfs": tmpfs,
            "readonly": context["readOnlyRootFilesystem"],
            "workdir": "/tmp",
            "user": context["runAsUser"],
            "group": context["runAsGroup"],
            "fs_group": context["fsGroup"],
            "no_new_privileges": context["allowPrivilegeEscalation"] is False,
            "env": env,
            "command": [expanded(word, env) for word in container["command"]],
        }

    def _environment(self, container: Object, identity: Identity) -> dict[str, str]:
        """The image's variables, the pod's own, and those that the controller adds, with references followed."""
        env = {**IMAGE_ENV, "HOSTNAME": identity.host}
        for entry in container["env"]:
            source = entry.get("valueFrom", {})
            if "secretKeyRef" in source:
                env[entry["name"]] = self.secrets[source["secretKeyRef"]["name"]][
                    source["secretKeyRef"]["key"]
                ]
            elif "fieldRef" in source:
                label = re.fullmatch(r"metadata\.labels\['(.+)'\]", source["fieldRef"]["fieldPath"])
                assert label
                env[entry["name"]] = identity.labels.get(label[1], "")
            else:
                env[entry["name"]] = expanded(entry["value"], env)
        # the job controller adds its variable, and leaves one that is there
        own = {e["name"] for e in container["env"]}
        return env | {k: v for k, v in identity.env.items() if k not in own}

    def _source(self, folder: Path, volume: Object, config_map: Object, context: Object) -> Path:
        if "configMap" in volume:
            assert volume["configMap"]["name"] == config_map["metadata"]["name"]
            made = folder / str(volume["name"])
            made.mkdir(exist_ok=True)
            for name, text in config_map["data"].items():
                (made / name).write_text(text)
            return made
        claim: Path = self.claims[volume["persistentVolumeClaim"]["claimName"]]
        os.chown(claim, 0, context["fsGroup"])  # as the kubelet does for fsGroup
        claim.chmod(0o2775)
        return claim


def _sh(*words: str, check: bool = True) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")


def _reserve_network() -> tuple[int, socket.socket]:
    """A number that no other test run of this machine uses, and the socket whose closing gives it back."""
    for number in range(1, 200):
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0pods-test-network-{number}")
        except OSError:
            reservation.close()
            continue
        return number, reservation
    raise RuntimeError("199 test runs have pods: no network is free")


def obstacle() -> str:
    """Why no pods can run here; '' when they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root on Linux, for namespaces and a bridge"
    missing = [p for p in ("unshare", "nsenter", "setpriv", "ip", "mount", "bash") if not shutil.which(p)]
    if missing:
        return f"missing programs: {', '.join(missing)} (Debian: util-linux iproute2)"
    probe = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "mount",
        "-t",
        "tmpfs",
        "x",
        "/mnt",
    ]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no namespaces: {done.stderr.strip()}" if done.returncode else ""

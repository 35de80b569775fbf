"""What the node entry (docker/node.py) is told, its mistakes, and hosts that meet."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.docker import entries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ending = importlib.import_module("ending")
hostfile = importlib.import_module("hostfile")
node = importlib.import_module("node")


# The hostfile and this host's place in it.


def test_hostfile(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text(
        "# the first is the master\n\nn1.cluster.example slots=8\r\n  n2\tslots=8  # spare\nfd00::3 slots=8"
    )
    assert hostfile.read_hostfile(path) == {"n1.cluster.example": 8, "n2": 8, "fd00::3": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "hostfile {path} names no host"),
        ("# n1 slots=8\n", "hostfile {path} names no host"),
        ("n1 slots=8\nn2\n", "{path}:2: 'n2' is not `host slots=N`"),
        ("n1 slots=0\n", "{path}:1: 'n1 slots=0' is not `host slots=N`"),
        ("n1 slots=8x\n", "{path}:1: 'n1 slots=8x' is not `host slots=N`"),
        ("n1 slots=-1\n", "{path}:1: 'n1 slots=-1' is not `host slots=N`"),
        ("n1 slots=8 max_slots=9\n", "{path}:1: 'n1 slots=8 max_slots=9' is not `host slots=N`"),
        ("n1 slots=٨\n", "{path}:1: 'n1 slots=٨' is not `host slots=N`"),
        ("slots=8\n", "{path}:1: 'slots=8' is not `host slots=N`"),
        ("n1 slots=8\n\nn1 slots=8\n", "{path}:3: host n1 is listed twice"),
        ("n1 slots=8\nn2 slots=4\n", "hostfile {path}: every host needs the same number of slots"),
        (None, "hostfile {path} cannot be read: No such file or directory"),
        (b"n1 slots=8\n\xff\xfe\n", "hostfile {path} is not text"),
    ],
)
def test_hostfile_errors(text: str | bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ending.Stop) as stop:
        hostfile.read_hostfile(path)
    assert (str(stop.value), stop.value.code) == (message.format(path=path), 64)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in entries.SCHEDULER:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


LOOPBACK = {"127.0.0.1": 1, "127.0.0.2": 1, "127.0.0.3": 1}


@pytest.mark.parametrize("variable", hostfile.INDEX_VARIABLES)
def test_index_from_the_scheduler(variable: str, bare: pytest.MonkeyPatch) -> None:
    bare.setenv(variable, "2")
    assert hostfile.find_index(LOOPBACK, None) == 2
    assert hostfile.find_index(LOOPBACK, 1) == 1  # --node wins


def test_index_is_not_needed_for_one_host(bare: pytest.MonkeyPatch) -> None:
    assert hostfile.find_index({socket.gethostname(): 8}, None) == 0


@pytest.mark.parametrize("here", ["n2", "N2.other.example"])
def test_a_host_that_nothing_numbers_finds_itself(here: str, bare: pytest.MonkeyPatch) -> None:
    bare.setattr(socket, "gethostname", lambda: here)
    assert hostfile.find_index({"n1": 1, "n2.cluster.example": 1, "n3": 1}, None) == 1
    with pytest.raises(ending.Stop, match=r"^3 hosts but no index: "):
        hostfile.find_index({"n2.a.example": 1, "n2.b.example": 1, "n3": 1}, None)


@pytest.mark.parametrize("here", ["n2", "n2.cluster.example", "N2", "n2.other.example"])
@pytest.mark.parametrize("named", ["n2", "n2.cluster.example"])
def test_a_host_knows_itself_with_and_without_domain(named: str, here: str, bare: pytest.MonkeyPatch) -> None:
    bare.setattr(socket, "gethostname", lambda: here)
    assert hostfile.find_index({"n1": 1, named: 1}, 1) == 1


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        (
            {},
            None,
            "3 hosts but no index: none of SLURM_NODEID, JOB_COMPLETION_INDEX, LWS_WORKER_INDEX, "
            "PET_NODE_RANK, NODE_RANK is set",
        ),
        (
            {"SLURM_NODEID": "two"},
            None,
            "3 hosts but no index: none of SLURM_NODEID, JOB_COMPLETION_INDEX, LWS_WORKER_INDEX, "
            "PET_NODE_RANK, NODE_RANK is set",
        ),
        ({"SLURM_NODEID": "3"}, None, "SLURM_NODEID is 3 but the hostfile is short: it has 3 hosts"),
        ({}, -1, "--node is -1 but the hostfile is short: it has 3 hosts"),
    ],
)
def test_index_errors(
    environment: dict[str, str], given: int | None, message: str, bare: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        bare.setenv(name, value)
    with pytest.raises(ending.Stop) as stop:
        hostfile.find_index(LOOPBACK, given)
    assert (str(stop.value), stop.value.code) == (message, 64)


def test_another_hosts_place(bare: pytest.MonkeyPatch) -> None:
    """192.0.2.0/24 belongs to no machine (RFC 5737), so its address cannot be bound here."""
    with pytest.raises(ending.Stop) as stop:
        hostfile.find_index({"127.0.0.1": 1, "192.0.2.7": 1}, 1)
    here = socket.gethostname()
    assert str(stop.value) == f"the hostfile names 192.0.2.7 at index 1, but this host is {here}"
    assert stop.value.code == 64


def test_a_pod_on_the_hosts_network_waits_until_its_name_is_its_own(bare: pytest.MonkeyPatch) -> None:
    """First nobody's, then still its predecessor's on another node."""
    answers: list[str] = ["", "192.0.2.7", "127.0.0.1"]
    ask = socket.getaddrinfo

    def asked(host: str, *rest: Any, **more: Any) -> Any:
        assert host == "demo-1.demo"
        if not (address := answers.pop(0)):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(address, *rest, **more)

    bare.setattr(socket, "getaddrinfo", asked)
    bare.setattr(hostfile.time, "sleep", lambda _: None)
    bare.setattr(hostfile, "_STARTED", time.monotonic())
    bare.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert hostfile.find_index({"demo-0.demo": 1, "demo-1.demo": 1}, 1) == 1
    assert answers == []
    bare.delenv("KUBERNETES_SERVICE_HOST")
    answers.extend(["", "127.0.0.1"])
    with pytest.raises(ending.Stop, match="the hostfile names demo"):
        hostfile.find_index({"demo-0.demo": 1, "demo-1.demo": 1}, 1)


@pytest.mark.parametrize(
    ("visible", "accelerator", "enough"),
    [
        ("0,1", None, True),
        ("GPU-1f,GPU-2f,GPU-3f", None, True),
        ("", None, True),
        ("NoDevFiles", None, True),
        ("0", "cpu", True),
        ("0", "cuda", False),
        ("MIG-1f", None, False),
    ],
)
def test_devices(visible: str, accelerator: str | None, enough: bool, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("CUDA_VISIBLE_DEVICES", visible)
    if accelerator:
        bare.setenv("DS_ACCELERATOR", accelerator)
    if enough:
        node.check_devices(2, dict(os.environ))
        return
    with pytest.raises(ending.Stop) as stop:
        node.check_devices(2, dict(os.environ))
    assert str(stop.value) == f"the hostfile says 2 slots but CUDA_VISIBLE_DEVICES is {visible!r}"
    assert stop.value.code == 64


def test_a_mistake_ends_the_node_entry_in_one_line(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    job.hostfile.write_text("127.0.0.1\n")
    job.start(0, "")
    assert job.codes() == [64]
    assert job.said(0) == f"node: error: {job.hostfile}:1: '127.0.0.1' is not `host slots=N`\n"
    assert job.outcome() == (64, -1, socket.gethostname())


@pytest.mark.parametrize("words", [["--hostfile", "h"], ["--hostfile", "h", "--run", "r", "--folder", "f"]])
def test_a_wrong_command_line_has_its_own_code(words: list[str]) -> None:
    """argparse's 2 could be a rank's."""
    done = subprocess.run(
        [sys.executable, str(entries.DOCKER / "node.py"), *words], capture_output=True, text=True
    )
    assert done.returncode == 64
    assert "node.py: error: " in done.stderr


def test_a_folder_that_cannot_be_written(new_job: Callable[..., entries.Job]) -> None:
    job = new_job()
    (job.folder / "logs").touch()  # a file in the way: root may write everywhere else
    job.start(0, "")
    assert job.codes() == [73]
    assert job.said(0) == f"node: error: the run folder {job.folder} cannot be written: File exists\n"


# Hosts that meet.


def test_ranks_of_three_hosts_meet(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=3, slots=2)
    job.start_all(entries.MEET)
    assert job.codes() == [0, 0, 0]
    assert job.log(0) == b"met [1, 2, 3, 4, 5]\n"


# Hosts with names, addresses and process tables of their own. All of it is in namespaces inside one that the test
# makes, so nothing shows on this machine, and the end of the outermost first process ends everything.
CLUSTER = """
set -e
mount --make-rprivate /
mount --bind hosts /etc/hosts
echo 'hosts: files' >nsswitch && mount --bind nsswitch /etc/nsswitch.conf
ip link add bridge type bridge && ip link set bridge up
for i in 0 1 2; do
    unshare --net --uts --pid --fork --mount-proc --kill-child bash host $i "$@" >node-$i.out 2>node-$i.err &
    until inner=$(cat /proc/$!/task/$!/children 2>/dev/null) && [ -n "$inner" ]; do sleep .01; done
    ip link add port$i type veth peer name eth0 netns $inner
    ip link set port$i master bridge up
done
for job in $(jobs -p); do wait $job && echo 0 >>codes || echo $? >>codes; done
"""
HOST = """
set -e
i=$1 && shift
hostname n$i
until ip link show eth0 >/dev/null 2>&1; do sleep .01; done
ip link set lo up
%(flush)s
ip addr add %(address)s dev eth0 && ip link set eth0 up
export JOB_COMPLETION_INDEX=$i
exec "$@"
"""


@entries.in_namespaces
@pytest.mark.parametrize("family", ["ipv4", "ipv6 only"])
def test_machines_meet_by_name(family: str, new_job: Callable[..., entries.Job]) -> None:
    """Three machines with names in a domain; the index comes from the scheduler, and no flag is needed."""
    job = new_job(hosts=3)
    prefix, flush = ("10.77.0.1", "") if family == "ipv4" else ("fd00:77::1", "ip -4 addr flush dev lo")
    job.hosts = [f"n{i}.cluster.example" for i in range(3)]
    addresses = [f"{prefix}{i}" for i in range(3)]
    lines = [f"{address} {host}" for address, host in zip(addresses, job.hosts, strict=True)]
    (job.folder / "hosts").write_text("\n".join(lines) + "\n")
    job.hostfile.write_text("".join(f"{host} slots=1\n" for host in job.hosts))
    (job.folder / "cluster").write_text(CLUSTER)
    address = f"{prefix}$i/64 nodad" if "6" in family else f"{prefix}$i/24"
    (job.folder / "host").write_text(HOST % {"address": address, "flush": flush})
    outer = ("unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
    job.entries[0] = subprocess.Popen(
        [*outer, "bash", "cluster", *job.command(None, entries.MEET, "--wait", "30")],
        cwd=job.folder,
        env=entries.CLEAN,
        stderr=subprocess.PIPE,
    )
    _, error = job.entries[0].communicate(timeout=entries.LIMIT)
    assert error == b""
    assert (job.folder / "codes").read_text().split() == ["0", "0", "0"], [job.said(i) for i in range(3)]
    assert job.log(0) == b"met [1, 2]\n"
    assert [f"host n{rank}, pid" in job.log_head(rank) for rank in range(3)] == [True] * 3


BLAMED = """
import os, signal, sys, time
if os.environ["RANK"] == "1":
    with open(os.environ["LAUNCHER_HEARTBEAT"] + "/blame", "w") as file:
        file.write("corrupted: it differs\\nbefore: nothing")
    sys.exit(78)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(78))
time.sleep(600)
"""


def test_a_host_that_a_rank_blames_is_unfit(new_job: Callable[..., entries.Job]) -> None:
    job = new_job(hosts=3)
    job.start_all(BLAMED)
    assert job.codes() == [78, 78, 78]
    assert job.outcome() == (78, 1, "127.0.0.2")
    assert (job.folder / "unfit-0").read_text() == "127.0.0.2 corrupted: it differs\n"

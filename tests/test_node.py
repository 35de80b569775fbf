"""The node entry (docker/node.py and its modules): real processes, each host one on this machine or in a namespace."""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# docker/ is what runs in the image, not a package of the launcher: its modules are plain files on sys.path.
ending = importlib.import_module("ending")
node = importlib.import_module("node")
DOCKER = Path(__file__).parent.parent / "docker"
LIMIT = 60.0  # seconds; far more than any step needs on a busy machine

SCHEDULER = (*node.INDEX_VARIABLES, "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "OMP_NUM_THREADS", "PYTHONPATH")
CLEAN = {name: value for name, value in os.environ.items() if name not in SCHEDULER}

# What DeepSpeed's launcher sets and the node entry does not: the devices stay the scheduler's (docker/ranks.py), and
# the second is a by-product of importing deepspeed, which every rank does anyway.
LEFT_OUT = {"CUDA_VISIBLE_DEVICES", "PYTORCH_NVML_BASED_CUDA_CHECK"}

# What ranks run. Files in the working directory tell the test how far they are, and them to go on.
READY = """
import os, signal, socket, sys, time
from pathlib import Path
rank = os.environ["RANK"]
def ready(word="ready"):
    Path(f"{word}-{rank}.tmp").write_text(str(os.getpid()))
    Path(f"{word}-{rank}.tmp").rename(f"{word}-{rank}")
def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.01)
"""
WAIT = READY + "ready(); wait_for('go-on')"
SLEEP = READY + "ready(); time.sleep(600)"
READ = READY + "ours, theirs = socket.socketpair(); ready(); ours.recv(1)"
STUBBORN = READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(600)"
NOTE = """
got = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda n, _: (got.append(n), ready(f"{signal.Signals(n).name}{got.count(n)}")))
"""
# Every rank connects to rank 0, as torch's store does, and leaves when all have come.
MEET = """
import os, socket, time
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
port = int(os.environ["MASTER_PORT"])
if rank == 0:
    server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    calls = [server.accept()[0] for _ in range(world - 1)]
    print("met", sorted(int(call.recv(9)) for call in calls), flush=True)
    [call.sendall(b"go") for call in calls]
else:
    while True:
        try:
            call = socket.create_connection((os.environ["MASTER_ADDR"], port))
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    call.sendall(str(rank).encode())
    assert call.recv(2) == b"go"
"""


def until(done: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < end, f"not within {LIMIT:.0f} s: {what}"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """A zombie does not: not every machine's first process buries them."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@dataclass
class Job:
    """A run of this test: its folder is also the ranks' working directory."""

    folder: Path
    hosts: list[str]
    slots: int
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    entries: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def hostfile(self) -> Path:
        return self.folder / "hostfile"

    def command(
        self, index: int | None, program: str, *options: str, grace: float | None = None
    ) -> list[str]:
        """The node entry's command line; with `grace` its ranks have that many seconds to leave."""
        code = f"import sys; sys.path.insert(0, {str(DOCKER)!r}); import node, supervisor; supervisor.GRACE = {grace}"
        entry = [str(DOCKER / "node.py")] if grace is None else ["-c", f"{code}; sys.exit(node.main())"]
        place = [] if index is None else ["--node", str(index)]
        words = ["--hostfile", str(self.hostfile), "--run", self.run, "--folder", str(self.folder), *place]
        return [sys.executable, *entry, *words, *options, "--", "-c", program]

    def start(
        self,
        index: int,
        program: str,
        *options: str,
        grace: float | None = None,
        around: tuple[str, ...] = (),
        **env: str,
    ) -> subprocess.Popen[bytes]:
        if not self.hostfile.exists():
            self.hostfile.write_text("".join(f"{host} slots={self.slots}\n" for host in self.hosts))
        with self.path(index, "out").open("wb") as out, self.path(index, "err").open("wb") as err:
            self.entries[index] = subprocess.Popen(
                [*around, *self.command(index, program, *options, grace=grace)],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**CLEAN, **env},
            )
        return self.entries[index]

    def start_all(self, program: str, *options: str, **more: Any) -> None:
        for index in range(len(self.hosts)):
            self.start(index, program, *options, **more)

    def path(self, index: int, kind: str) -> Path:
        return self.folder / f"node-{index}.{kind}"

    def said(self, index: int) -> str:
        return self.path(index, "err").read_text()

    def codes(self) -> list[int]:
        return [self.entries[index].wait(LIMIT) for index in sorted(self.entries)]

    def ranks(self, word: str = "ready") -> list[int]:
        """The pids of all ranks, once all have told `word`."""
        files = [self.folder / f"{word}-{rank}" for rank in range(len(self.hosts) * self.slots)]
        until(lambda: all(file.exists() for file in files), f"ranks are {word}")
        return [int(file.read_text()) for file in files]

    def go_on(self) -> None:
        (self.folder / "go-on").touch()

    def log(self, rank: int) -> bytes:
        """What the rank wrote: all but the first line of its log."""
        return (self.folder / f"logs/rank-{rank}.log").read_bytes().partition(b"\n")[2]

    def outcome(self) -> tuple[int, int, str]:
        code, rank, host, _ = (self.folder / "outcome-0").read_text().split()
        return int(code), int(rank), host


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def make(hosts: int = 1, slots: int = 1) -> Job:
        jobs.append(Job(tmp_path, [f"127.0.0.{i + 1}" for i in range(hosts)], slots))
        return jobs[-1]

    yield make
    for entry in [entry for job in jobs for entry in job.entries.values()]:
        entry.kill()
        entry.wait(LIMIT)


# The hostfile and this host's place in it.


def test_hostfile(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text(
        "# the first is the master\n\nn1.cluster.example slots=8\r\n  n2\tslots=8  # spare\nfd00::3 slots=8"
    )
    assert node.read_hostfile(path) == {"n1.cluster.example": 8, "n2": 8, "fd00::3": 8}


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
        node.read_hostfile(path)
    assert (str(stop.value), stop.value.code) == (message.format(path=path), 64)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in SCHEDULER:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


LOOPBACK = {"127.0.0.1": 1, "127.0.0.2": 1, "127.0.0.3": 1}


@pytest.mark.parametrize("variable", node.INDEX_VARIABLES)
def test_index_from_the_scheduler(variable: str, bare: pytest.MonkeyPatch) -> None:
    bare.setenv(variable, "2")
    assert node.find_index(LOOPBACK, None) == 2
    assert node.find_index(LOOPBACK, 1) == 1  # --node wins


def test_index_is_not_needed_for_one_host(bare: pytest.MonkeyPatch) -> None:
    assert node.find_index({socket.gethostname(): 8}, None) == 0


@pytest.mark.parametrize("here", ["n2", "n2.cluster.example", "N2", "n2.other.example"])
@pytest.mark.parametrize("named", ["n2", "n2.cluster.example"])
def test_a_host_knows_itself_with_and_without_domain(named: str, here: str, bare: pytest.MonkeyPatch) -> None:
    bare.setattr(socket, "gethostname", lambda: here)
    assert node.find_index({"n1": 1, named: 1}, 1) == 1


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
        node.find_index(LOOPBACK, given)
    assert (str(stop.value), stop.value.code) == (message, 64)


def test_another_hosts_place(bare: pytest.MonkeyPatch) -> None:
    """192.0.2.0/24 belongs to no machine (RFC 5737), so its address cannot be bound here."""
    with pytest.raises(ending.Stop) as stop:
        node.find_index({"127.0.0.1": 1, "192.0.2.7": 1}, 1)
    here = socket.gethostname()
    assert str(stop.value) == f"the hostfile names 192.0.2.7 at index 1, but this host is {here}"
    assert stop.value.code == 64


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
        node.check_devices(2)
        return
    with pytest.raises(ending.Stop) as stop:
        node.check_devices(2)
    assert str(stop.value) == f"the hostfile says 2 slots but CUDA_VISIBLE_DEVICES is {visible!r}"
    assert stop.value.code == 64


def test_a_mistake_ends_the_node_entry_in_one_line(new_job: Callable[..., Job]) -> None:
    job = new_job()
    job.hostfile.write_text("127.0.0.1\n")
    job.start(0, "")
    assert job.codes() == [64]
    assert job.said(0) == f"node: error: {job.hostfile}:1: '127.0.0.1' is not `host slots=N`\n"
    assert job.outcome() == (64, -1, socket.gethostname())


@pytest.mark.parametrize("words", [["--hostfile", "h"], ["--hostfile", "h", "--run", "r", "--folder", "f"]])
def test_a_wrong_command_line_has_its_own_code(words: list[str]) -> None:
    """argparse's 2 could be a rank's."""
    done = subprocess.run([sys.executable, str(DOCKER / "node.py"), *words], capture_output=True, text=True)
    assert done.returncode == 64
    assert "node.py: error: " in done.stderr


def test_a_folder_that_cannot_be_written(new_job: Callable[..., Job]) -> None:
    job = new_job()
    (job.folder / "logs").touch()  # a file in the way: root may write everywhere else
    job.start(0, "")
    assert job.codes() == [73]
    assert job.said(0) == f"node: error: the run folder {job.folder} cannot be written: File exists\n"


# The ranks' world.


@pytest.mark.deepspeed
def test_ranks_have_deepspeeds_environment(new_job: Callable[..., Job]) -> None:
    """Against `python -m deepspeed.launcher.launch` itself, on the second of two hosts of two slots."""
    job = new_job(hosts=2, slots=2)
    dump = job.folder / "dump.py"
    dump.write_text(
        "import json, os, sys\n"
        "json.dump(dict(os.environ), open(f'{sys.argv[1]}-{os.environ[\"RANK\"]}.json', 'w'))\n"
    )
    world = base64.urlsafe_b64encode(json.dumps({host: [0, 1] for host in job.hosts}).encode()).decode()
    theirs = subprocess.Popen(
        [
            *(sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", "--node_rank=1"),
            *(f"--master_addr={job.hosts[0]}", "--master_port=29400", "--no_local_rank", str(dump), "theirs"),
        ],
        cwd=job.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**CLEAN, "DS_ACCELERATOR": "cpu"},
    )
    run = f"import sys; sys.argv = ['dump', 'ours']; exec(open({str(dump)!r}).read())"
    job.start_all(run, DS_ACCELERATOR="cpu")
    assert job.codes() == [0, 0]
    _, error = theirs.communicate(timeout=120)
    assert theirs.returncode == 0, error.decode()

    names = ["MASTER_ADDR", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"]
    for rank in (2, 3):
        their = json.loads((job.folder / f"theirs-{rank}.json").read_text())
        our = json.loads((job.folder / f"ours-{rank}.json").read_text())
        assert {name: our[name] for name in names} == {name: their[name] for name in names}
        changed = {name for name in their if their[name] != CLEAN.get(name)}
        assert changed - set(our) <= LEFT_OUT
        added = {name for name in our if our[name] != CLEAN.get(name)} - changed
        assert added == {"LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "PYTHONPATH"}
        assert our["LOCAL_WORLD_SIZE"] == our["LOCAL_SIZE"]
        assert our["PYTHONPATH"] == str(DOCKER)


@pytest.mark.deepspeed
def test_torch_takes_the_master_port_that_is_held(new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=2)
    job.start_all(
        "import torch\n"
        "torch.distributed.init_process_group('gloo')\n"
        "one = torch.ones(1)\n"
        "torch.distributed.all_reduce(one)\n"
        "print(one.item(), flush=True)\n"
        "torch.distributed.destroy_process_group()"
    )
    assert job.codes() == [0, 0], job.log(0)
    assert [job.log(rank) for rank in range(2)] == [b"2.0\n"] * 2


def test_one_host_needs_no_name_service(new_job: Callable[..., Job]) -> None:
    job = new_job()
    job.hosts = [socket.gethostname()]
    job.start(0, "import os; print(os.environ['MASTER_ADDR'])")
    assert job.codes() == [0]
    assert job.log(0) == b"127.0.0.1\n"


def test_ranks_of_three_hosts_meet(new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=3, slots=2)
    job.start_all(MEET)
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
ip addr flush dev lo scope %(flush)s
ip addr add %(address)s dev eth0 && ip link set eth0 up
export JOB_COMPLETION_INDEX=$i
exec "$@"
"""


def namespaces() -> str:
    """Why there are none here; empty when there are."""
    if os.geteuid() != 0:
        return "it needs root"
    words = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "ip", "link"]
    try:
        probe = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return probe.stderr.strip() if probe.returncode else ""


in_namespaces = pytest.mark.skipif(bool(namespaces()), reason=f"no namespaces: {namespaces()}")


@in_namespaces
@pytest.mark.parametrize("family", ["ipv4", "ipv6 only"])
def test_machines_meet_by_name(family: str, new_job: Callable[..., Job]) -> None:
    """Three machines with names in a domain; the index comes from the scheduler, and no flag is needed."""
    job = new_job(hosts=3)
    prefix, flush = ("10.77.0.1", "link") if family == "ipv4" else ("fd00:77::1", "host")
    job.hosts = [f"n{i}.cluster.example" for i in range(3)]
    addresses = [f"{prefix}{i}" for i in range(3)]
    lines = [f"{address} {host}" for address, host in zip(addresses, job.hosts, strict=True)]
    (job.folder / "hosts").write_text("\n".join(lines) + "\n")
    job.hostfile.write_text("".join(f"{host} slots=1\n" for host in job.hosts))
    (job.folder / "cluster").write_text(CLUSTER)
    address = f"{prefix}$i/64 nodad" if "6" in family else f"{prefix}$i/24"
    (job.folder / "host").write_text(HOST % {"address": address, "flush": flush})
    outer = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "bash",
        "cluster",
    ]
    job.entries[0] = subprocess.Popen(
        [*outer, *job.command(None, MEET, "--wait", "30")], cwd=job.folder, env=CLEAN, stderr=subprocess.PIPE
    )
    _, error = job.entries[0].communicate(timeout=LIMIT)
    assert error == b""
    assert (job.folder / "codes").read_text().split() == ["0", "0", "0"], [job.said(i) for i in range(3)]
    assert job.log(0) == b"met [1, 2]\n"
    assert [b"host n%d, pid" % rank in log_head(job, rank) for rank in range(3)] == [True] * 3


def log_head(job: Job, rank: int) -> bytes:
    return (job.folder / f"logs/rank-{rank}.log").read_bytes().partition(b"\n")[0]


@in_namespaces
def test_as_the_first_process_of_a_container(new_job: Callable[..., Job]) -> None:
    """PID 1 gets no signal that it has no handler for, and must bury the orphans of its ranks."""
    job = new_job()
    orphan = """
if os.fork() == 0:
    if os.fork() == 0:
        while os.getppid() != 1: time.sleep(0.01)
        ready("orphan")
    os._exit(0)
os.wait()
while not (path := Path(f"orphan-{rank}")).exists() or Path("/proc", path.read_text()).exists(): time.sleep(0.01)
"""
    leave = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); ready(); time.sleep(600)"
    around = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    outer = job.start(0, READY + orphan + leave, around=around)
    job.ranks()
    (first,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
    assert " pid 2" in log_head(job, 0).decode()
    os.kill(int(first), signal.SIGTERM)
    assert job.codes() == [75]
    assert job.outcome() == (75, 0, "127.0.0.1")


# How a run ends.


@pytest.mark.parametrize("others", [SLEEP, READ], ids=["sleep", "read"])
def test_the_first_failure_ends_every_host_with_its_code(others: str, new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=3)
    for index, program in enumerate((others, WAIT + "; sys.exit(3)", others)):
        job.start(index, program)
    pids = job.ranks()
    begin = time.monotonic()
    job.go_on()
    assert job.codes() == [3, 3, 3]
    assert time.monotonic() - begin < 8  # less than the ranks' grace: nothing waited for it
    assert job.outcome() == (3, 1, "127.0.0.2")
    assert not any(map(lives, pids))
    for index in range(3):
        assert "node: rank 1 on 127.0.0.2 ended with 3\n" in job.said(index)


def test_a_rank_that_does_not_leave_is_killed(new_job: Callable[..., Job]) -> None:
    """It, and what it started, after its grace."""
    job = new_job(hosts=2)
    child = (
        "import subprocess; c = subprocess.Popen(['sleep', '600']); Path('child').write_text(str(c.pid))\n"
    )
    job.start(0, READY + child + STUBBORN, grace=0.5)
    job.start(1, WAIT + "; sys.exit(3)", grace=0.5)
    pids = job.ranks()
    job.go_on()
    assert job.codes() == [3, 3]
    pids.append(int((job.folder / "child").read_text()))
    until(lambda: not any(map(lives, pids)), "no process is left")


def test_the_whole_grace_is_given_only_where_it_is_needed() -> None:
    supervisor = importlib.import_module("supervisor")
    assert 5 <= supervisor.GRACE <= 15
    assert supervisor.SAVE_GRACE >= 300


def test_a_rank_that_is_killed(new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=2)
    job.start(0, SLEEP)
    job.start(1, WAIT + "; os.kill(os.getpid(), 9)")
    job.ranks()
    job.go_on()
    assert job.codes() == [137, 137]
    assert job.outcome() == (137, 1, "127.0.0.2")


def test_saved_is_waited_for(new_job: Callable[..., Job]) -> None:
    """Nobody is told to stop when one rank has saved: the others are about to, at their own pace."""
    job = new_job(hosts=2)
    job.start(0, WAIT + "; sys.exit(75)", grace=0.1)
    job.start(1, READY + NOTE + "ready(); wait_for('saved'); assert not got; sys.exit(75)", grace=0.1)
    job.ranks()
    job.go_on()
    until(lambda: "rank 0 on 127.0.0.1 ended with 75" in job.said(1), "the second host heard of it")
    (job.folder / "saved").touch()
    assert job.codes() == [75, 75]
    assert job.outcome() == (75, 0, "127.0.0.1")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_host_is_named(lost: int, new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=3)
    job.start_all(SLEEP)
    pids = job.ranks()
    job.entries[lost].kill()
    codes = job.codes()
    assert codes.pop(lost) == -9
    assert codes == [70, 70]
    assert job.outcome() == (70, -1, job.hosts[lost])
    for index in {0, 1, 2} - {lost}:
        assert f"node: lost {job.hosts[lost]}\n" in job.said(index)
    until(lambda: not any(map(lives, pids)), "no rank is left, not on the lost host either")


@pytest.mark.parametrize("early", [0, 1])
def test_a_host_that_is_done_first_is_not_lost(early: int, new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=3)
    for index in range(3):
        job.start(index, READY + "ready()" if index == early else WAIT)
    pids = job.ranks()
    until(lambda: not lives(pids[early]), "the first is done")
    job.go_on()
    assert job.codes() == [0, 0, 0]
    assert not (job.folder / "outcome-0").exists()
    assert not any("lost" in job.said(index) for index in range(3))


@pytest.mark.parametrize("early", [0, 1])
def test_a_host_that_is_done_hears_of_a_late_failure(early: int, new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=3)
    for index in range(3):
        job.start(index, {early: READY + "ready()", 2: WAIT + "; sys.exit(3)"}.get(index, WAIT))
    pids = job.ranks()
    until(lambda: not lives(pids[early]), "the first is done")
    job.go_on()
    codes = job.codes()
    assert (codes[early], codes[2]) == (3, 3)


def test_ranks_that_cannot_start(new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=2)
    (job.folder / "logs/rank-1.log").mkdir(parents=True)
    job.start_all(SLEEP)
    assert job.codes() == [71, 71]
    assert "node: error: the ranks cannot be started: [Errno 21] Is a directory" in job.said(1)
    assert "node: 127.0.0.2 ended with 71\n" in job.said(0)


def test_the_outcome_of_an_earlier_try_is_forgotten(new_job: Callable[..., Job]) -> None:
    """Kubernetes starts the pods of a run again with the same words."""
    job = new_job(hosts=2)
    for code in (3, 4):
        job.start_all(f"import sys; sys.exit({code} if __import__('os').environ['RANK'] == '1' else 0)")
        assert job.codes() == [code, code]
        assert job.outcome() == (code, 1, "127.0.0.2")


# Signals.


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_reaches_every_rank_once(name: str, new_job: Callable[..., Job]) -> None:
    job = new_job(slots=3)
    entry = job.start(0, READY + NOTE + "ready(); wait_for('go-on'); print(len(got))")
    job.ranks()
    for count in (1, 2):
        entry.send_signal(signal.Signals[name])
        job.ranks(f"{name}{count}")
    job.go_on()
    assert job.codes() == [0]
    assert [job.log(rank) for rank in range(3)] == [b"2\n"] * 3


def test_ctrl_c_is_sigterm_for_the_ranks(new_job: Callable[..., Job]) -> None:
    job = new_job(slots=2)
    entry = job.start(0, READY + NOTE + "ready(); wait_for('go-on'); print(got)")
    job.ranks()
    entry.send_signal(signal.SIGINT)
    job.ranks("SIGTERM1")
    job.go_on()
    assert job.codes() == [0]
    assert job.log(0) == b"[15]\n"


def test_the_signal_to_save_waits_for_a_handler(new_job: Callable[..., Job]) -> None:
    """Slurm sends it to every process of a step at once: a rank that still imports must live, and get it later."""
    job = new_job(slots=2)
    late = READY + "ready(); wait_for('go-on')" + NOTE + "wait_for(f'SIGUSR21-{rank}'); sys.exit(75)"
    entry = job.start(0, late)
    for pid in [*job.ranks(), entry.pid]:
        os.kill(pid, signal.SIGUSR2)
    job.go_on()
    assert job.codes() == [75]


def test_a_rank_that_cannot_save_is_left_alone(new_job: Callable[..., Job]) -> None:
    job = new_job()
    entry = job.start(0, WAIT)
    job.ranks()
    entry.send_signal(signal.SIGUSR2)
    entry.send_signal(signal.SIGUSR2)
    job.go_on()
    assert job.codes() == [0]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR2", 75)])
def test_a_signal_before_the_ranks_start(name: str, code: int, new_job: Callable[..., Job]) -> None:
    job = new_job(hosts=2)
    entry = job.start(0, SLEEP)
    until(lambda: "waiting at" in job.said(0), "the first host waits")
    entry.send_signal(signal.Signals[name])
    assert job.codes() == [code]
    assert job.said(0).endswith(f"node: error: {name} came before the ranks were started\n")
    assert job.outcome()[:2] == (code, -1)


# Logs.


def test_logs_keep_every_byte(new_job: Callable[..., Job]) -> None:
    job = new_job(slots=2)
    data = bytes(range(256)) * 2 + b"\r50%\r100%\n\n" + b"x" * 200_000 + b"\xff no newline at the end"
    (job.folder / "data").write_bytes(data)
    job.start(0, "import os, sys; os.write(1, open('data', 'rb').read()); os.write(2, b'!')")
    assert job.codes() == [0]
    assert [job.log(rank) for rank in range(2)] == [data + b"!"] * 2
    assert log_head(job, 1).startswith(b"--- attempt 0, host ")


@pytest.mark.parametrize(
    ("echo", "lines"),
    [
        ("0", [b"", b"a0", b"b0"]),
        ("all", [b"[0] ", b"[0] a0", b"[0] b0", b"[1] ", b"[1] a1", b"[1] b1"]),
    ],
)
def test_echo(echo: str, lines: list[bytes], new_job: Callable[..., Job]) -> None:
    job = new_job(slots=2)
    job.start(0, "import os; r = os.environ['RANK']; print(f'a{r}\\n\\nb{r}', end='')", "--echo", echo)
    assert job.codes() == [0]
    assert sorted(job.path(0, "out").read_bytes().splitlines()) == lines


def test_a_closed_stdout_does_not_change_the_exit_code(new_job: Callable[..., Job]) -> None:
    job = new_job()
    job.start(0, WAIT + "; print('x' * 100000); sys.exit(3)")
    job.entries[0].kill()  # only to have a hostfile
    job.entries.pop(0).wait(LIMIT)
    entry = subprocess.Popen(
        job.command(0, WAIT + "; print('x' * 100000, flush=True); sys.exit(3)"),
        cwd=job.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=CLEAN,
    )
    assert entry.stdout
    entry.stdout.close()
    job.entries[0] = entry
    job.go_on()
    assert job.codes() == [3]
    assert len(job.log(0)) == 100001


def test_fifty_megabytes_need_little_memory(new_job: Callable[..., Job]) -> None:
    job = new_job()
    flood = "for _ in range(800): os.write(1, b'y' * 65535 + b'\\n' if _ % 2 else b'z' * 65536)\n"
    entry = job.start(0, READY + flood + "ready(); wait_for('go-on')")
    job.ranks()
    status = Path(f"/proc/{entry.pid}/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0])  # kB
    job.go_on()
    assert job.codes() == [0]
    assert len(job.log(0)) == 800 * 65536
    assert peak < 64 * 1024

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
DOCKER = Path(node.__file__).parent
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


NewJob = "Callable[..., Job]"


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
    """Against `python -m deepspeed.launcher.launch` itself, on two hosts of two slots."""
    job = new_job(hosts=2, slots=2)
    dump = job.folder / "dump.py"
    dump.write_text(
        "import json, os, sys\n"
        "json.dump(dict(os.environ), open(f'{sys.argv[1]}-{os.environ[\"RANK\"]}.json', 'w'))\n"
    )
    world = base64.urlsafe_b64encode(json.dumps(dict.fromkeys(job.hosts, [0, 1])).encode()).decode()
    theirs = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}"),
                *(f"--node_rank={index}", f"--master_addr={job.hosts[0]}", "--master_port=29400"),
                *("--no_local_rank", str(dump), "theirs"),
            ],
            cwd=job.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**CLEAN, "DS_ACCELERATOR": "cpu"},
        )
        for index in range(2)
    ]
    run = f"import sys; sys.argv = ['dump', 'ours']; exec(open({str(dump)!r}).read())"
    job.start_all(run, DS_ACCELERATOR="cpu")
    assert job.codes() == [0, 0]
    for launch in theirs:
        _, error = launch.communicate(timeout=120)
        assert launch.returncode == 0, error.decode()

    names = "MASTER_ADDR WORLD_SIZE RANK LOCAL_RANK LOCAL_SIZE CROSS_RANK CROSS_SIZE".split()
    for rank in range(4):
        their = json.loads((job.folder / f"theirs-{rank}.json").read_text())
        our = json.loads((job.folder / f"ours-{rank}.json").read_text())
        assert {name: our[name] for name in names} == {name: their[name] for name in names}
        changed = {name for name in their if their[name] != CLEAN.get(name)}
        assert changed - set(our) <= LEFT_OUT
        added = {name for name in our if our[name] != CLEAN.get(name)} - changed
        assert added == {"LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "PYTHONPATH"}
        assert our["LOCAL_WORLD_SIZE"] == our["LOCAL_SIZE"]
        assert our["PYTHONPATH"] == str(DOCKER)

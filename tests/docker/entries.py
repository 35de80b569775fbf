"""Runs of the node entry for tests: each host is a real process on this machine, and each rank too.

Owns starting, waiting and reading what they left; what is expected is the tests'.
"""

from __future__ import annotations

import contextlib
import importlib
import os
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
hostfile = importlib.import_module("hostfile")
DOCKER = Path(__file__).parents[2] / "docker"
LIMIT = 60.0  # seconds; far more than any step needs on a busy machine

SCHEDULER = (
    *hostfile.INDEX_VARIABLES,
    "CUDA_VISIBLE_DEVICES",
    "DS_ACCELERATOR",
    "OMP_NUM_THREADS",
    "PYTHONPATH",
)
CLEAN = {name: value for name, value in os.environ.items() if name not in SCHEDULER}

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

    def write_hostfile(self) -> None:
        """Unless the test wrote one."""
        if not self.hostfile.exists():
            self.hostfile.write_text("".join(f"{host} slots={self.slots}\n" for host in self.hosts))

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
        self.write_hostfile()
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
        return self._log(rank)[2]

    def log_head(self, rank: int) -> str:
        return self._log(rank)[0].decode()

    def _log(self, rank: int) -> tuple[bytes, bytes, bytes]:
        return (self.folder / f"logs/rank-{rank}.log").read_bytes().partition(b"\n")

    def outcome(self) -> tuple[int, int, str]:
        code, rank, host, _ = (self.folder / "outcome-0").read_text().split()
        return int(code), int(rank), host


@contextlib.contextmanager
def jobs(folder: Path) -> Iterator[Callable[..., Job]]:
    """A function that makes a job of N hosts 127.0.0.1, 127.0.0.2, …; all processes are gone afterwards."""
    made: list[Job] = []

    def make(hosts: int = 1, slots: int = 1) -> Job:
        made.append(Job(folder, [f"127.0.0.{i + 1}" for i in range(hosts)], slots))
        return made[-1]

    try:
        yield make
    finally:
        for entry in [entry for job in made for entry in job.entries.values()]:
            entry.kill()
            entry.wait(LIMIT)


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


_WHY = namespaces()
in_namespaces = pytest.mark.skipif(bool(_WHY), reason=f"no namespaces: {_WHY}")

"""A real Slurm cluster of several nodes on one Linux machine, for tests: start it, break it, stop it.

Owns the processes, namespaces and cables; `tests/real/slurm/config.py` owns what the daemons read.

Each node is a slurmd alone in its own network, mount, UTS, IPC and PID namespace. So it has its own address,
host name, ports, /dev/shm and process table as a machine has, shares the file system as a cluster does, and
can be cut off or crash: the end of its first process ends everything on it. Several slurmd in one namespace
share all of that: there `hostname` is the same on every node, and tasks outlive their node.

Needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN). The machine itself gets one bridge and one directory under /tmp.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real.slurm import config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

# Every process gets SIGKILL when the one that started it dies, however it dies: a killed pytest leaves none.
_DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")


class Cluster:
    """A context manager: the nodes are idle on entry, and nothing runs after exit.

    `folder` holds everything the cluster writes (`folder/log` for a post-mortem), `first_pid` each node's first
    process, `env` is the environment in
    which srun, sbatch and the others talk to this cluster and no other.
    """

    folder: Path
    network: config.Network

    def __init__(self, settings: config.Settings | None = None, *, keep: bool = False) -> None:
        self.settings = settings or config.Settings()
        self.names = self.settings.names
        self._keep = keep
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.first_pid: dict[str, int] = {}

    def __enter__(self) -> Cluster:
        # Short, because the path of a Unix socket ends at 107 bytes; pytest's tmp_path is too long.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.network, self._reservation = _reserve_network()
        try:
            self._start()
        except BaseException:
            self._keep = True
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def conf(self) -> Path:
        """The path of slurm.conf."""
        return self.folder / "etc/slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        # A test run may itself be a Slurm job, whose SLURM_* and SBATCH_* would choose partitions and nodes.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN"))}
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        return {**inherited, "PATH": path, "SLURM_CONF": str(self.conf)}

    # What a test asks and does.

    def sh(
        self, *command: str, check: bool = True, timeout: float = 60, env: Mapping[str, str] | None = None
    ) -> str:
        """Run one shell text, or a program with its arguments, on the submitting machine; return its stdout.

        Raises RuntimeError with the output when it fails and `check` is set.
        """
        argv = ("bash", "-c", command[0]) if len(command) == 1 else command
        result = subprocess.run(
            [*_DIES_WITH_PARENT, *argv],
            text=True,
            capture_output=True,
            env={**self.env, **(env or {})},
            timeout=timeout,
            check=False,
        )
        if check and result.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: exit {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result.stdout.strip()

    def node_exec(self, node: str, *command: str) -> str:
        """Run a program inside a node, as someone who is logged in there would; return its stdout."""
        return self.sh("nsenter", "--all", "--target", str(self.first_pid[node]), "--", *command)

    def states(self, job_id: int | str) -> set[str]:
        """The states of a job, or of every element of a job array: {"RUNNING"}, {"COMPLETED"}, ..."""
        if self.settings.accounting:  # also answers while slurmctld is down
            text = self.sh(f"sacct -X -n -P -o State -j {job_id}", check=False)
        else:
            text = self.sh(f"squeue -h -t all -o %T -j {job_id}", check=False)
        return {line.split()[0] for line in text.splitlines() if line}  # "CANCELLED by 0"

    def wait_for_state(self, job_id: int | str, *states: str, timeout: float = 150) -> str:
        """Wait until the job, or every element of a job array, is in one of `states`; return the state.

        Raises TimeoutError with the state the job is in.
        """
        seen: set[str] = set()

        def arrived() -> bool:
            seen.clear()
            seen.update(self.states(job_id))
            return bool(seen) and seen <= set(states)

        why = f"job {job_id} should be {' or '.join(states)} but is"
        self._wait(arrived, lambda: f"{why} {' and '.join(sorted(seen)) or 'unknown'}", timeout, every=0.1)
        return min(seen)

    def cut(self, node: str) -> None:
        """Take a node off the network. Its processes go on; Slurm says NODE_FAIL after `slurmd_timeout`."""
        self.sh(f"ip link set {self.network.link(node)} down")

    def mend(self, node: str) -> None:
        self.sh(f"ip link set {self.network.link(node)} up")

    def crash(self, node: str) -> None:
        """End every process of a node at once, as a power cut does."""
        os.kill(self.first_pid.pop(node), signal.SIGKILL)
        self._processes.pop(node).wait(60)

    def start_node(self, node: str) -> None:
        (self.folder / f"spool/{node}").mkdir(exist_ok=True)
        process = self._spawn(node, *config.node(self.network, self.folder, node))
        # unshare forks once the namespaces exist, so its child is the node's first process.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        self._wait(
            lambda: bool(children.read_text().split()), lambda: f"{node} has no first process", every=0.002
        )
        self.first_pid[node] = int(children.read_text().split()[0])
        link, bridge = self.network.link(node), self.network.bridge
        self.sh(f"ip link del {link}", check=False)  # the namespace of a crashed node is taken down late
        self.sh(f"ip link add {link} type veth peer name eth0 netns {self.first_pid[node]}")
        self.sh(f"ip link set {link} master {bridge} up")

    def start_ctld(self) -> None:
        self._spawn("slurmctld", *config.slurmctld(self.folder))

    def stop_ctld(self) -> None:
        """Stop slurmctld so that it saves its state; jobs run on, and srun, sbatch and squeue fail."""
        process = self._processes.pop("slurmctld")
        process.terminate()
        process.wait(60)

    def reset(self) -> None:
        """Make the cluster as it was when it started: every node up and idle, no job."""
        if "slurmctld" not in self._processes:
            self.start_ctld()
            self._wait(lambda: "UP" in self.sh("scontrol ping", check=False), lambda: "slurmctld is not up")
        anew = []
        for node in self.names:
            if node in self._processes and self._processes[node].poll() is not None:  # its slurmd ended
                del self._processes[node], self.first_pid[node]
            if node not in self._processes:
                self.start_node(node)
                anew.append(node)
            self.mend(node)
        if self._jobs():
            self._remove_jobs()
        if not self._idle():
            self.sh("scontrol update nodename=ALL state=resume", check=False)
            self._wait_until_idle()
        for node in anew:  # Slurm may not have noticed that its slurmd was away, and calls it idle
            self._wait(
                lambda node=node: "up" in self.sh(f"srun --nodelist={node} echo up", check=False),  # type: ignore[misc]
                lambda node=node: f"{node} starts no step",  # type: ignore[misc]
            )

    # How it starts and stops.

    def _start(self) -> None:
        config.write(self.settings, self.network, self.folder)
        bridge, head = self.network.bridge, self.network.head
        self.sh(f"ip link del {bridge}", check=False)  # left by a killed test run
        self.sh(f"ip link add {bridge} type bridge && ip addr add {head}/24 dev {bridge}")
        self.sh(f"ip link set {bridge} up")
        self._start_munge()
        if self.settings.accounting:
            self._start_database()
        self.start_ctld()
        for node in self.names:
            self.start_node(node)
        self._wait_until_idle()

    def _start_munge(self) -> None:
        self._spawn("munged", *config.munged(self.folder))
        self._wait((self.folder / "run/munge.socket").exists, lambda: "munged does not listen")

    def _start_database(self) -> None:
        database = f"{self.folder}/run/db.sock"
        self._spawn("mariadbd", *config.mariadbd(self.folder))
        self._wait(lambda: _listens(database), lambda: "mariadbd does not listen")
        self._spawn("slurmdbd", "slurmdbd", "-D", env={"MYSQL_UNIX_PORT": database})
        where = (self.network.head, self.network.dbd_port)
        self._wait(lambda: _listens(where), lambda: "slurmdbd does not listen")

    def _stop(self) -> None:
        # SIGKILL, because all state is thrown away; on SIGTERM slurmctld waits 5 s for jobs that complete.
        for name, process in self._processes.items():
            if name not in self.first_pid:
                process.kill()
            # A node's unshare ends by itself, after the last process of the node. While it runs it has not
            # reaped the first process, so the number still means that one.
            elif process.poll() is None:
                os.kill(self.first_pid[name], signal.SIGKILL)
        for process in self._processes.values():
            process.wait(10)
        self._processes.clear()
        self.first_pid.clear()
        subprocess.run(["ip", "link", "del", self.network.bridge], capture_output=True, check=False)
        self._reservation.close()
        if not self._keep:
            shutil.rmtree(self.folder)

    def _spawn(self, name: str, *argv: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"log/{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*_DIES_WITH_PARENT, *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for pytest, which then stops the cluster
                env={**self.env, **(env or {})},
            )
        return self._processes[name]

    def _wait(
        self, done: Callable[[], bool], why: Callable[[], str], timeout: float = 120, every: float = 0.02
    ) -> None:
        end = time.monotonic() + timeout
        while not done():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    log = (self.folder / f"log/{name}.out").read_text()[-3000:]
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{log}")
            if time.monotonic() > end:
                raise TimeoutError(f"after {timeout} s: {why()}; logs: {self.folder}/log")
            time.sleep(every)

    def _jobs(self) -> str:
        return self.sh("squeue -h -o %i")

    def _idle(self) -> bool:
        return self.sh("sinfo -h -p debug -o '%T %D'", check=False) == f"idle {self.settings.nodes}"

    def _wait_until_idle(self) -> None:
        self._wait(self._idle, lambda: f"nodes are not idle: {self.sh('sinfo -N', check=False)}")

    def _remove_jobs(self) -> None:
        self.sh("scancel --user=root", check=False)
        with contextlib.suppress(TimeoutError):
            self._wait(lambda: not self._jobs(), lambda: "jobs are left", timeout=0.4, every=0.05)
        # A task that ignores SIGTERM, as every submitit task does, holds its node for KillWait and 5 s more.
        held = self.sh("squeue -h -t CG -o %N | xargs -r -n1 scontrol show hostnames | sort -u").split()
        for node in held:
            self.crash(node)
            # Without this slurmctld waits a minute for the step's end.
            self.sh(f"scontrol update nodename={node} state=down reason=reset")
            self.start_node(node)
        self._wait(lambda: not self._jobs(), lambda: f"jobs are left: {self._jobs()}", every=0.1)


def _reserve_network() -> tuple[config.Network, socket.socket]:
    """A network that no other cluster of this machine uses, and the socket whose closing gives it back.

    The name of an abstract Unix socket belongs to the network namespace, as a bridge does, and vanishes with
    the process: parallel test runs do not collide and a killed one leaves no lock.
    """
    for number in range(1, 100):
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0slurm-test-network-{number}")
        except OSError:
            reservation.close()
            continue
        return config.Network(number), reservation
    raise RuntimeError("99 Slurm test clusters are running: no network is free")


def _listens(where: str | tuple[str, int]) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET) as client:
        client.settimeout(1)
        return client.connect_ex(where) == 0

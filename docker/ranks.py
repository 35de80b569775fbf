"""The ranks of one host: their processes, environment, logs, signals and exit codes.

Owns processes; which hosts there are is node.py's, other hosts are rendezvous.py's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ending import LOST, SAVED, Outcome

if TYPE_CHECKING:
    from rendezvous import Message, Peers

# How long ranks have to leave after another one failed: they wait in a collective that will never end.
GRACE = 10.0
# How long they have when one said "saved": the others are leaving too, but a slow disk may hold them.
SAVE_GRACE = 600.0
_LIBC = ctypes.CDLL(None)
_STDOUT = threading.Lock()


@dataclass(frozen=True)
class Signal:
    number: int


@dataclass(frozen=True)
class Exit:
    pid: int
    status: int  # negative: minus the signal's number


@dataclass(frozen=True)
class Heard:
    node: int
    message: Message


Event = Signal | Exit | Heard


def environment(hosts: dict[str, int], index: int, local_rank: int, port: int) -> dict[str, str]:
    """A rank's variables: those of deepspeed.launcher.launch, and LOCAL_WORLD_SIZE, which torch's tools read."""
    slots = list(hosts.values())[index]
    env = dict(os.environ)
    env.update(
        MASTER_ADDR=next(iter(hosts)),
        MASTER_PORT=str(port),
        WORLD_SIZE=str(sum(hosts.values())),
        RANK=str(index * slots + local_rank),
        LOCAL_RANK=str(local_rank),
        LOCAL_SIZE=str(slots),
        LOCAL_WORLD_SIZE=str(slots),
        CROSS_RANK=str(index),
        CROSS_SIZE=str(len(hosts)),
    )
    # All of the host's cores in every rank, torch's default, makes ranks fight for them.
    env.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // slots)))
    code = str(Path(__file__).resolve().parent)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (code, env.get("PYTHONPATH"))))
    return env


@dataclass
class Ranks:
    """Processes by pid, and the exit code of each rank that has ended."""

    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)  # pid → rank
    codes: dict[int, int] = field(default_factory=dict)  # rank → exit code
    copiers: list[threading.Thread] = field(default_factory=list)

    @property
    def alive(self) -> list[int]:
        return [pid for pid, rank in self.numbers.items() if rank not in self.codes]

    def signal(self, number: int) -> None:
        for pid in self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def start(command: list[str], hosts: dict[str, int], index: int, port: int) -> Ranks:
    """Start this host's ranks. Their output waits in pipes until `keep_logs`."""
    ranks = Ranks()
    for local_rank in range(list(hosts.values())[index]):
        env = environment(hosts, index, local_rank, port)
        process = subprocess.Popen(
            [sys.executable, "-u", *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
        ranks.processes[process.pid] = process
        ranks.numbers[process.pid] = int(env["RANK"])
    return ranks


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no rank outlives a killed node entry


def keep_logs(ranks: Ranks, logs: Path, echo: str, attempt: str) -> None:
    """Copy each rank's output to `logs`/rank-N.log; to stdout too, rank 0's ("0") or all, with a prefix ("all")."""
    for pid, process in ranks.processes.items():
        rank = ranks.numbers[pid]
        log = (logs / f"rank-{rank}.log").open("ab", buffering=0)
        log.write(f"--- attempt {attempt}, host {socket.gethostname()}, pid {pid}\n".encode())
        prefix = f"[{rank}] ".encode() if echo == "all" else b""
        wanted = echo == "all" or rank == 0
        copier = threading.Thread(target=_copy, args=(process.stdout, log, prefix, wanted), daemon=True)
        copier.start()
        ranks.copiers.append(copier)


def _copy(source: IO[bytes], log: Any, prefix: bytes, wanted: bool) -> None:
    """Byte for byte to `log`, whole lines to stdout. A full disk loses lines, never the rank."""
    pending = b""
    with source, log:
        while chunk := os.read(source.fileno(), 65536):
            with contextlib.suppress(OSError):
                log.write(chunk)
            *lines, pending = (pending + chunk).split(b"\n")
            if len(pending) > 65536:
                lines, pending = [*lines, pending], b""
            if wanted:
                _print(b"".join(prefix + line + b"\n" for line in lines))
        if pending and wanted:
            _print(prefix + pending + b"\n")


def _print(data: bytes) -> None:
    with _STDOUT, contextlib.suppress(OSError):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def reap(events: queue.SimpleQueue[Event]) -> None:
    """Every child that ends becomes an event; as PID 1 of a container this also buries orphans."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.wait()
            events.put(Exit(pid, os.waitstatus_to_exitcode(status)))


@dataclass
class Supervisor:
    """Waits for the ranks here and for the end everywhere.

    Signals go on to the ranks, which decide what they mean; the first failure anywhere ends the ranks everywhere.
    """

    ranks: Ranks
    peers: Peers
    outcome: Outcome
    events: queue.SimpleQueue[Event]
    failed: int = 0
    kill_at: float | None = None

    def wait(self) -> int:
        """The run's exit code, as this host knows it."""
        others = set(self.peers.links)
        while self.ranks.alive or (others and not self.failed):
            timeout = None if self.kill_at is None else max(0.0, self.kill_at - time.monotonic())
            try:
                event = self.events.get(timeout=timeout)
            except queue.Empty:
                self.ranks.signal(signal.SIGKILL)
                self.kill_at = None
                continue
            if isinstance(event, Signal):
                self.ranks.signal(event.number)
            elif isinstance(event, Exit):
                self._ended(event)
            else:
                others.discard(event.node)
                self._heard(event)
        return self.failed

    def _ended(self, event: Exit) -> None:
        if event.pid not in self.ranks.numbers:
            return
        rank = self.ranks.numbers[event.pid]
        code = self.ranks.codes[rank] = event.status if event.status >= 0 else 128 - event.status
        if code and not self.failed:
            self.outcome.write(code, rank)
            self._fail(code)
        elif not self.ranks.alive and not self.failed:
            self.peers.tell(type="done")

    def _heard(self, event: Heard) -> None:
        kind = event.message.get("type")
        if self.failed or kind not in {"failed", "lost"}:
            return
        if kind == "lost":
            self.outcome.write(LOST, -1, self.peers.hosts[event.node])
            print(f"node: lost {self.peers.hosts[event.node]}", file=sys.stderr, flush=True)
        self._fail(int(event.message.get("code", LOST)), heard_from=event.node)

    def _fail(self, code: int, heard_from: int = -1) -> None:
        self.failed = code
        self.peers.tell(but=heard_from, type="failed", code=code)
        if code != SAVED:
            self.ranks.signal(signal.SIGTERM)
        self.kill_at = time.monotonic() + (SAVE_GRACE if code == SAVED else GRACE)

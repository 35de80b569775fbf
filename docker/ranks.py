"""The ranks of one host: their processes, environment, signals and exit codes.

Owns processes and the way from the first failure to the end; which hosts there are is node.py's, the connections to
them are links.py's, the ranks' output is logs.py's.

What a rank can rely on: SIGTERM and SIGUSR2 ("save and leave") that reach the node entry reach every rank. A rank may
get one twice, because Slurm signals every process of a step and the node entry passes its own on, so a handler only
takes a note. SIGUSR2 is ignored in a rank until it has a handler, and the node entry holds it until then, so it neither
kills a rank that is still importing, nor one that cannot save, nor compilers and data loaders that a rank starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ending import LOST, SAVED, Failure, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from links import Message, Peers

# How long ranks have to leave after another one failed: they wait in a collective that will never end.
GRACE = 10.0
# How long they have when one said "saved": the others are leaving too, but a slow disk may hold them.
SAVE_GRACE = 600.0
_LIBC = ctypes.CDLL(None)


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
        # One host alone needs no name service.
        MASTER_ADDR=next(iter(hosts)) if len(hosts) > 1 else "127.0.0.1",
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
    held: set[int] = field(default_factory=set)  # pids for which SIGUSR2 is held

    @property
    def alive(self) -> list[int]:
        return [pid for pid, rank in self.numbers.items() if rank not in self.codes]

    def signal(self, number: int) -> None:
        if number == signal.SIGUSR2:
            self.held.update(self.alive)
            self.deliver()
        else:
            for pid in self.alive:
                _kill(pid, number)

    def deliver(self) -> None:
        """Send SIGUSR2 to the ranks that it is held for and that have a handler by now."""
        self.held.intersection_update(self.alive)
        for pid in [pid for pid in self.held if _catches(pid, signal.SIGUSR2)]:
            self.held.remove(pid)
            _kill(pid, signal.SIGUSR2)

    def kill(self) -> None:
        """SIGKILL to every rank and what it started: no data loader or compiler keeps a GPU after the run."""
        for pid in self.numbers:
            _kill(-pid, signal.SIGKILL)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # reaped, and its Exit is on the way
        os.kill(pid, number)


def _catches(pid: int, number: int) -> bool:
    with contextlib.suppress(OSError, ValueError, IndexError):
        mask = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
        return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def start(command: list[str], hosts: dict[str, int], index: int, port: int) -> Ranks:
    """Start this host's ranks. Their output waits in pipes until `logs.keep`. Raises OSError when one cannot start."""
    ranks, parent = Ranks(), os.getpid()

    def prepare() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no rank outlives a killed node entry
        if os.getppid() != parent:  # it was killed before that
            os._exit(1)

    for local_rank in range(list(hosts.values())[index]):
        env = environment(hosts, index, local_rank, port)
        process = subprocess.Popen(
            [sys.executable, "-u", *command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=prepare,
            start_new_session=True,  # Ctrl-C in a terminal is for the node entry, which passes it on
        )
        ranks.processes[process.pid] = process
        ranks.numbers[process.pid] = int(env["RANK"])
    return ranks


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
    Node 0 decides which one was the first and tells the others, so every host ends with the same code.
    """

    ranks: Ranks
    peers: Peers
    host: str
    outcome: Outcome
    events: queue.SimpleQueue[Event]
    say: Callable[[str], None]
    failure: Failure | None = None
    deadline: float = float("inf")  # when the ranks that are left are killed
    killed: bool = False
    unfinished: set[int] = field(default_factory=set)  # nodes that have not said how they ended

    def wait(self) -> int:
        """The run's exit code. A host whose ranks are done stays until all are: the run may still fail."""
        self.unfinished.update(self.peers.links)
        while self.ranks.alive or self.unfinished:
            left = max(0.0, self.deadline - time.monotonic())
            try:
                event = self.events.get(timeout=min(left, 0.1 if self.ranks.held else 3600.0))
            except queue.Empty:
                self.ranks.deliver()
                if time.monotonic() >= self.deadline and not self._kill():
                    break
                continue
            if isinstance(event, Signal):
                self.ranks.signal(event.number)
            elif isinstance(event, Exit):
                self._ended(event)
            else:
                self._heard(event.node, event.message)
        self.ranks.kill()
        if not self.failure:
            self.peers.tell(type="done")
        return self.failure.code if self.failure else 0

    def _kill(self) -> bool:
        """Kill the ranks that are left. False when that was tried before: a hung driver or disk holds them."""
        if not self.killed:
            self.ranks.kill()
            self.killed, self.deadline = True, time.monotonic() + GRACE
            return True
        if self.ranks.alive:
            self.say(f"left processes behind that cannot be killed: {self.ranks.alive}")
        return False

    def _ended(self, event: Exit) -> None:
        rank = self.ranks.numbers.get(event.pid)
        if rank is None:  # an orphan
            return
        code = self.ranks.codes[rank] = event.status if event.status >= 0 else 128 - event.status
        if code and not self.failure:
            self._fail(Failure(code, rank, self.host))
        elif not self.ranks.alive and not self.failure and 0 in self.peers.links:
            self.peers.tell(type="done")

    def _heard(self, node: int, message: Message) -> None:
        if node not in self.unfinished:
            return
        self.unfinished.remove(node)
        if message.get("type") == "failed":
            failure = Failure(int(message["code"]), int(message["rank"]), str(message["host"]))
        elif message.get("type") == "lost":
            failure = Failure(LOST, -1, self.peers.hosts[node])
        else:
            return
        decided = node == 0 and message["type"] == "failed" and failure != self.failure
        if decided or not self.failure:
            self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self.outcome.write(failure)
        self.say(str(failure))
        self.peers.tell(type="failed", code=failure.code, rank=failure.rank, host=failure.host)
        if 0 not in self.peers.links:
            self.unfinished.clear()
        if failure.code == SAVED:
            self.deadline = time.monotonic() + SAVE_GRACE
        else:
            self.ranks.signal(signal.SIGTERM)
            self.deadline = time.monotonic() + GRACE

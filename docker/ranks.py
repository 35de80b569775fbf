"""The ranks of one host: their processes, environment, signals and exit codes.

Owns processes; when they are told to end is supervisor.py's, their output is logs.py's, which hosts there are is
node.py's.

What a rank can rely on: SIGTERM and SIGUSR2 ("save and leave") that reach the node entry reach every rank. A rank may
get one twice, because Slurm signals every process of a step and the node entry passes its own on, so a handler only
takes a note. SIGUSR2 is ignored in a rank until it has a handler, and the node entry holds it until then, so it neither
kills a rank that is still importing, nor one that cannot save, nor compilers and data loaders that a rank starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import environment
import terminal
from ending import BAD_INPUT, NOT_STARTED, Stop

if TYPE_CHECKING:
    import queue

    from links import Message

_LIBC = ctypes.CDLL(None)
_STREAMS: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
    "start_new_session": True,  # Ctrl-C in a terminal is for the node entry, which passes it on
}


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


@dataclass(frozen=True)
class Team:
    """All ranks of the run, as this host sees them: host → slots, this host's index, and rank 0's port."""

    hosts: dict[str, int]
    index: int
    port: int


def own_variables(team: Team, local_rank: int) -> dict[str, str]:
    """What tells a rank from the others: the variables of deepspeed.launcher.launch, and LOCAL_WORLD_SIZE.

    CUDA_VISIBLE_DEVICES stays as the scheduler set it; DeepSpeed's 0…N-1 may be another job's GPUs.
    """
    hosts, index = team.hosts, team.index
    slots = list(hosts.values())[index]
    return {
        # One host alone needs no name service.
        "MASTER_ADDR": next(iter(hosts)) if len(hosts) > 1 else "127.0.0.1",
        "MASTER_PORT": str(team.port),
        "WORLD_SIZE": str(sum(hosts.values())),
        "RANK": str(index * slots + local_rank),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_SIZE": str(slots),
        "LOCAL_WORLD_SIZE": str(slots),
        "CROSS_RANK": str(index),
        "CROSS_SIZE": str(len(hosts)),
    }


def defaults(variables: dict[str, str], slots: int) -> dict[str, str]:
    """`variables` with what every rank of this host needs beside them."""
    # All of the host's cores in every rank, torch's default, makes ranks fight for them.
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // slots))}
    code = str(Path(__file__).resolve().parent)
    path = os.pathsep.join(filter(None, (code, variables.get("PYTHONPATH"))))
    return {**threads, **variables, "PYTHONPATH": path}


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


def start(command: list[str], variables: dict[str, str], team: Team) -> Ranks:
    """Start this host's ranks with `variables`. Their output waits in pipes until `logs.keep`.

    Raises Stop when one cannot be started.
    """
    ranks, parent = Ranks(), os.getpid()
    words = [sys.executable, "-u", *command]
    slots = list(team.hosts.values())[team.index]
    shared = defaults(variables, slots)

    def prepare() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        terminal.take(env["RANK"])
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no rank outlives a killed node entry
        if os.getppid() != parent:  # it was killed before that
            os._exit(1)

    for local_rank in range(slots):
        env = shared | own_variables(team, local_rank)
        try:
            process = subprocess.Popen(
                words,
                env=env,
                preexec_fn=prepare,
                **(terminal.streams(env["RANK"]) or _STREAMS),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise _refusal(error, env, words) from None
        ranks.processes[process.pid] = process
        ranks.numbers[process.pid] = int(env["RANK"])
    return ranks


def _refusal(error: Exception, env: dict[str, str], words: list[str]) -> Stop:
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return Stop(BAD_INPUT, f"the ranks cannot be started: {environment.oversize(env, words) or error}")
    if isinstance(error, ValueError):  # a NUL in a value, or `=` in a name
        return Stop(BAD_INPUT, f"the ranks cannot be started: {error}")
    return Stop(NOT_STARTED, f"the ranks cannot be started: {error}")


def reap(events: queue.SimpleQueue[Event]) -> None:
    """Every child that ends becomes an event; as PID 1 of a container this also buries orphans."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.wait()
            events.put(Exit(pid, os.waitstatus_to_exitcode(status)))

"""The ranks of one host: their start, signals and exit codes.

Owns the ranks; when they are told to end is supervisor.py's, their output is logs.py's, their variables are team.py's.

What a rank can rely on: SIGTERM and SIGUSR2 ("save and leave") that reach the node entry reach every rank, SIGUSR2 as
the signal that the job names. A rank may get one twice, because Slurm signals every process of a step and the node
entry passes its own on, so a handler only takes a note. SIGUSR2 is ignored in a rank until it has a handler, and the
node entry holds it until then, so it neither kills a rank that is still importing, nor one that cannot save, nor
compilers and data loaders that a rank starts.
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
import heartbeat
import nsys
import processes
import program
import team
import terminal
from ending import BAD_INPUT, NOT_STARTED, NOT_WRITABLE, Stop

if TYPE_CHECKING:
    import queue

    from links import Message

_LIBC = ctypes.CDLL(None)
_PLAIN = program.Program()
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


@dataclass(frozen=True)
class Quiet:
    """How all ranks here are: one "moves", all that run are "quiet" for too long, or all are "done"."""

    state: str


@dataclass(frozen=True)
class Asked:
    """Somebody wants to see the ranks' stacks."""


@dataclass(frozen=True)
class Stalled:
    """No rank of the run advances: `why`, and the rank and host that the others wait for, -1 and '' without one."""

    rank: int
    host: str
    of_host: bool
    why: str


Event = Signal | Exit | Heard | Quiet | Asked | Stalled


@dataclass
class Ranks:
    """Processes by pid, and the exit code of each rank that has ended."""

    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)  # pid → rank
    codes: dict[int, int] = field(default_factory=dict)  # rank → exit code
    wanted: int | None = signal.SIGUSR2  # what ranks get for SIGUSR2; None: nothing
    start_ranks: bool = False  # the processes start the ranks themselves: one a host
    under: dict[int, Path] = field(default_factory=dict)  # pid of an nsys → where it has its rank's: nsys.py
    held: set[int] = field(default_factory=set)  # pids for which that signal is held
    told: set[int] = field(default_factory=set)  # who got it

    @property
    def alive(self) -> list[int]:
        return [pid for pid, rank in self.numbers.items() if rank not in self.codes]

    def process(self, pid: int) -> int:
        """The process that gets the rank's signals."""
        return nsys.process(self.under[pid], pid) if pid in self.under else pid

    def code(self, pid: int, status: int) -> int:
        """The exit code of a rank whose process ended with `status`, which is minus the signal's number."""
        status = nsys.code(self.under[pid], status) if pid in self.under else status
        return status if status >= 0 else 128 - status

    def signal(self, number: int) -> None:
        for pid in self.alive:
            processes.kill(self.process(pid), number)

    def pass_on(self, number: int) -> None:
        """What the scheduler says: SIGUSR2 before the walltime, SIGTERM to leave at once."""
        if number == signal.SIGUSR2:
            if self.wanted is not None:
                self.told.clear()
                self.held.update(self.alive)
                self.deliver()
            return
        for pid in map(self.process, self.alive):
            # where only the node entry is told, as in a pod, SIGTERM too goes to whoever saves
            saves = self.wanted is not None and processes.catches(pid, self.wanted)
            only = saves and not processes.catches(pid, number)
            processes.kill(pid, self.wanted if only and self.wanted else number)

    def deliver(self) -> None:
        """Send the signal to the ranks that it is held for and that have a handler by now."""
        self.held.intersection_update(self.alive)
        if self.wanted is None:
            return
        for pid in list(self.held):
            ready = processes.catching(self.process(pid), self.wanted, below=self.start_ranks)
            for one in ready - self.told:
                processes.kill(one, self.wanted)
            self.told |= ready
            if ready and not self.start_ranks:  # else more of its ranks may come
                self.held.remove(pid)

    def kill(self) -> None:
        """SIGKILL to every rank and what it started: no data loader or compiler keeps a GPU after the run."""
        for pid in self.numbers:
            processes.kill(-pid, signal.SIGKILL)
        if self.start_ranks or self.under:  # whose ranks lead groups of their own
            processes.kill_below(os.getpid())


def start(
    command: list[str], variables: dict[str, str], place: team.Team, what: program.Program = _PLAIN
) -> Ranks:
    """Start this host's ranks with `variables`. Their output waits in pipes until `logs.keep`.

    Raises Stop when one cannot be started, or nsys is wanted and not here.
    """
    told = _told(what, variables)
    slots = list(place.hosts.values())[place.index]
    ranks, parent = Ranks(wanted=what.signal, start_ranks=what.per_host), os.getpid()
    active = program.chosen(what, variables)
    shared = team.variables(what, variables, place, active)
    python = [] if what.alone else [active.python if active else sys.executable, "-u"]
    if what.per_host or what.nsys:
        processes.adopt()

    def prepare() -> None:
        for number in {signal.SIGUSR2, what.signal or signal.SIGUSR2} - {signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)
        terminal.take(own["RANK"])
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no rank outlives a killed node entry
        if os.getppid() != parent:  # it was killed before that
            os._exit(1)

    for local_rank in range(1 if what.per_host else slots):
        own = team.of_rank(place, local_rank)
        env = shared | ({} if what.per_host else own)
        words = [*python, *program.words(what, command, team.known(what, env, own))]
        if what.nsys:
            env = env | {nsys.VARIABLE: f"{what.nsys}/rank-{own['RANK']}"}
            words = nsys.words(told, env[nsys.VARIABLE], own["RANK"], words)
        try:
            process = subprocess.Popen(
                words,
                env=env,
                preexec_fn=prepare,
                **(terminal.streams(own["RANK"]) or _STREAMS),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise _refusal(error, env, words) from None
        ranks.processes[process.pid] = process
        if what.nsys:
            ranks.under[process.pid] = nsys.file(told, own["RANK"])
        ranks.numbers[process.pid] = int(own["RANK"])
    return ranks


def _told(what: program.Program, variables: dict[str, str]) -> Path:
    """The folder of the ranks' records. Raises Stop where nsys is wanted and cannot be had."""
    told = variables.get(heartbeat.VARIABLE, "")
    if what.nsys:
        if why := nsys.missing(variables.get("PATH", os.defpath)):
            raise Stop(BAD_INPUT, why)
        try:
            Path(what.nsys).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Stop(NOT_WRITABLE, f"{what.nsys} cannot be made: {error.strerror}") from None
        if not told:
            raise Stop(NOT_STARTED, "nsys needs the folder of the ranks' records, for which there is no room")
    return Path(told)


def _refusal(error: Exception, env: dict[str, str], words: list[str]) -> Stop:
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return Stop(BAD_INPUT, f"the ranks cannot be started: {environment.oversize(env, words) or error}")
    if isinstance(error, (FileNotFoundError, PermissionError)):
        found = "cannot be started" if isinstance(error, PermissionError) else "is not on this host"
        where = "" if "/" in words[0] else f" (PATH={env.get('PATH', os.defpath)})"
        return Stop(NOT_STARTED, f"the ranks cannot be started: {words[0]} {found}{where}")
    if isinstance(error, ValueError):  # a NUL in a value, or `=` in a name
        return Stop(BAD_INPUT, f"the ranks cannot be started: {error}")
    return Stop(NOT_STARTED, f"the ranks cannot be started: {error}")


def reap(events: queue.SimpleQueue[Event]) -> None:
    """Every child that ends becomes an event; as PID 1 of a container this also buries orphans."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.wait()
            events.put(Exit(pid, os.waitstatus_to_exitcode(status)))

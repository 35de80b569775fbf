"""The way from the start of the ranks to the run's end, on every host the same.

Owns who is told what when a rank fails, a host is lost or the scheduler sends a signal; processes are ranks.py's, the
connections to other hosts are links.py's. Messages are {"type": "failed", "code", "rank", "host"} and {"type": "done"}.
"""

from __future__ import annotations

import queue
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import saved
import stacks
from ending import LOST, SAVED, STALLED, Failure, Outcome
from events import Events
from ranks import Asked, Event, Exit, Quiet, Ranks, Signal, Stalled

if TYPE_CHECKING:
    from collections.abc import Callable

    from hang import Hang
    from links import Message, Peers
    from restarts import Decision


# How long ranks have to leave after another one failed: they wait in a collective that will never end.
GRACE = 10.0
# How long after a host was lost, or a rank hangs: nothing can be saved, and other hosts may wait to take over.
HOPELESS_GRACE = 3.0
# How long they have when one said "saved": the others are leaving too, but a slow disk may hold them.
SAVE_GRACE = 600.0
# How long the run folder may take: a file system that hangs must not keep ranks from being ended.
_WRITING = 2.0


@dataclass
class Walltime:
    """What a job wants that is put back into the queue at its walltime, whether its program answers signals or not.

    `seconds`: from SIGUSR2 until the ranks are stopped; None where only a program's own exit code counts.
    """

    seconds: float | None = None
    checkpoints: Path = Path(saved.FOLDER)
    stops_at: float = float("inf")
    near: bool = False

    def begin(self) -> None:
        if self.seconds is not None and not self.near:
            self.near, self.stops_at = True, time.monotonic() + self.seconds

    @property
    def puts_back(self) -> bool:
        """Whether an end means "to be continued": the walltime is near, and there is something to go on from."""
        return self.near and stacks.within(_WRITING, lambda: saved.since(self.checkpoints), False)


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
    hang: Hang
    decision: Decision
    run_events: Events = field(default_factory=Events)
    failure: Failure | None = None
    code: int = 0  # of the run
    told: bool = False  # whether somebody wants it to end
    deadline: float = float("inf")  # when the ranks that are left are killed
    killed: bool = False
    walltime: Walltime = field(default_factory=Walltime)
    unfinished: set[int] = field(default_factory=set)  # nodes that have not said how they ended

    @property
    def first(self) -> bool:
        return 0 not in self.peers.links

    def wait(self) -> int:
        """The run's exit code. A host whose ranks are done stays until all are: the run may still fail."""
        self.unfinished.update(self.peers.links)
        while self.ranks.alive or self.unfinished:
            left = max(0.0, min(self.deadline, self.walltime.stops_at) - time.monotonic())
            try:
                event = self.events.get(timeout=min(left, 0.1 if self.ranks.held else 3600.0))
            except queue.Empty:
                self.ranks.deliver()
                if time.monotonic() >= self.walltime.stops_at:
                    self._stop()
                if time.monotonic() >= self.deadline and not self._kill():
                    break
                continue
            self._handle(event)
        self.ranks.kill()
        if self.first and not self.failure:
            self.peers.tell(type="done")
        return self.code

    def _handle(self, event: Event) -> None:
        if isinstance(event, Signal):
            self.told = True
            if event.number == signal.SIGUSR2:
                self.walltime.begin()
            self.ranks.pass_on(event.number)
        elif isinstance(event, Exit):
            self._ended(event)
        elif isinstance(event, Stalled):
            if not self.failure:
                self.run_events.tell("stalled", seconds=round(self.hang.watched.silence, 1))
                self._fail(Failure(STALLED, event.rank, event.host or self.host))
        elif self.failure and isinstance(event, Quiet | Asked):
            return
        elif isinstance(event, Quiet):
            self.hang.mark(self.hang.index, event.state)
        elif isinstance(event, Asked):
            self.hang.ask("asked")
        else:
            self._heard(event.node, event.message)

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
        self.ranks.processes[event.pid].returncode = event.status  # reap() took it from subprocess
        code = self.ranks.code(event.pid, event.status)
        code = self.ranks.codes[rank] = SAVED if self.walltime.puts_back else code
        if code and not self.failure:
            self._fail(Failure(code, rank, self.host))
        elif not (self.ranks.alive or self.failure or self.first):
            self.peers.tell(type="done")

    def _stop(self) -> None:
        """End ranks that went on after the signal before the walltime, while the scheduler leaves time to."""
        self.walltime.stops_at = float("inf")
        self.say("the walltime is near: the ranks are stopped")
        if not self.failure:
            code = SAVED if self.walltime.puts_back else 128 + signal.SIGTERM
            self._fail(Failure(code, -1, self.host))
        self.ranks.signal(signal.SIGTERM)
        self.deadline = time.monotonic() + GRACE

    def _heard(self, node: int, message: Message) -> None:
        if message.get("type") in {"quiet", "dump", "dumped"}:
            if not self.failure:
                self.hang.heard(node, message)
            return
        if node not in self.unfinished:
            return
        self.unfinished.remove(node)
        if message.get("type") == "failed":
            failure = Failure(int(message["code"]), int(message["rank"]), str(message["host"]))
        elif message.get("type") == "lost":
            failure = Failure(LOST, -1, self.peers.hosts[node])
        else:
            return
        ends = message.get("ends")
        decided = node == 0 and message["type"] == "failed"
        if not self.failure or (decided and failure != self.failure):
            self._fail(failure, ends)
        elif decided and ends is not None:
            self.code = int(ends)

    def _fail(self, failure: Failure, ends: int | None = None) -> None:
        """The run has failed; `ends`: its exit code as node 0 has decided it."""
        self.failure, self.code = failure, failure.code if ends is None else int(ends)
        stacks.within(_WRITING, lambda: self.outcome.write(failure), None)
        self.run_events.failed(failure)
        self.say(str(failure))
        if self.first:
            self.code = self.decision.code(failure, wanted=not self.told)
        facts = {"code": failure.code, "rank": failure.rank, "host": failure.host}
        self.peers.tell(type="failed", **facts, ends=self.code)
        if self.first:
            self.unfinished.clear()
        if failure.code == SAVED:
            self.deadline = time.monotonic() + SAVE_GRACE
        else:
            self.ranks.signal(signal.SIGTERM)
            hopeless = failure.code in (LOST, STALLED)
            self.deadline = time.monotonic() + (min(GRACE, HOPELESS_GRACE) if hopeless else GRACE)

"""The way from the start of the ranks to the run's end, on every host the same.

Owns who is told what when a rank fails, a host is lost or the scheduler sends a signal; processes are ranks.py's, the
connections to other hosts are links.py's. Messages are {"type": "failed", "code", "rank", "host"} and {"type": "done"}.
"""

from __future__ import annotations

import queue
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ending import LOST, SAVED, Failure, Outcome
from ranks import Event, Exit, Ranks, Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from links import Message, Peers

# How long ranks have to leave after another one failed: they wait in a collective that will never end.
GRACE = 10.0
# How long they have when one said "saved": the others are leaving too, but a slow disk may hold them.
SAVE_GRACE = 600.0


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

    @property
    def first(self) -> bool:
        return 0 not in self.peers.links

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
        if self.first and not self.failure:
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
        self.ranks.processes[event.pid].returncode = event.status  # reap() took it from subprocess
        code = self.ranks.codes[rank] = event.status if event.status >= 0 else 128 - event.status
        if code and not self.failure:
            self._fail(Failure(code, rank, self.host))
        elif not (self.ranks.alive or self.failure or self.first):
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
        if self.first:
            self.unfinished.clear()
        if failure.code == SAVED:
            self.deadline = time.monotonic() + SAVE_GRACE
        else:
            self.ranks.signal(signal.SIGTERM)
            self.deadline = time.monotonic() + GRACE

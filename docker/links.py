"""The connections between the hosts of a run: JSON objects over TCP, open from the meeting to the run's end.

Owns sending, receiving and noticing that a host is gone; who connects to whom is rendezvous.py's, what the messages
mean is ranks.py's.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Message = dict[str, Any]
ANSWER = 5.0  # seconds that a program on one of the run's ports has to answer as node 0 would
_LONGEST = 65536


class Link:
    """A connection that carries one JSON object a line. What has arrived waits in `inbox`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWER)
        self.socket = connection
        self.inbox: deque[Message] = deque()
        self.token = ""  # tells two processes apart that claim the same index
        self._rest = b""
        self._sending = threading.Lock()

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError), self._sending:  # a host that is gone is noticed by whoever reads
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def read(self) -> bool:
        """Move what has arrived into `inbox`. False once the connection ended, timed out or carried something else."""
        try:
            data = self.socket.recv(_LONGEST)
            *lines, self._rest = (self._rest + data).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError, RecursionError):  # the last: brackets in brackets in brackets…
            return False
        if not all(isinstance(message, dict) for message in messages):
            return False
        self.inbox.extend(messages)
        return bool(data) and len(self._rest) < _LONGEST

    def receive(self, timeout: float | None) -> Message:
        """The next message, or {} when none came within `timeout` seconds or none can come any more."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self.inbox:
            self.socket.settimeout(None if end is None else max(0.001, end - time.monotonic()))
            if not self.read() or (end is not None and time.monotonic() > end):
                break
        self.socket.settimeout(ANSWER)
        return self.inbox.popleft() if self.inbox else {}

    def keep_alive(self) -> None:
        # A host that loses power sends no FIN: without probes the run would wait for NCCL's half hour.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        times = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30000}
        for name, value in times.items():
            if hasattr(socket, name):
                self.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@dataclass
class Peers:
    """The links of this host: node 0 has one to every other host, every other host one to node 0."""

    hosts: list[str]
    port: int = 0  # MASTER_PORT
    links: dict[int, Link] = field(default_factory=dict)
    reserved: socket.socket | None = None  # holds MASTER_PORT on node 0

    def tell(self, **message: Any) -> None:
        for link in self.links.values():
            link.send(**message)

    def follow(self, heard: Callable[[int, Message], None]) -> None:
        """Call `heard(node, message)`, in a thread, for every message; {"type": "lost"} when a connection ends."""
        threading.Thread(target=self._follow, args=(heard,), daemon=True).start()

    def _follow(self, heard: Callable[[int, Message], None]) -> None:
        with selectors.DefaultSelector() as ready:
            for node, link in self.links.items():
                ready.register(link.socket, selectors.EVENT_READ, node)
            arrived = [(node, True) for node in self.links]  # a message may have come together with "go"
            while ready.get_map():
                for node, alive in arrived:
                    link = self.links[node]
                    while link.inbox:
                        heard(node, link.inbox.popleft())
                    if not alive:
                        ready.unregister(link.socket)
                        heard(node, {"type": "lost"})
                arrived = [(key.data, self.links[key.data].read()) for key, _ in ready.select()]

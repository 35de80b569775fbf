"""How the hosts of a run meet, and how each learns that another one failed or is gone.

Owns the port, the wait and the connections that stay open for the whole run; ranks are ranks.py's.
Node 0 listens on a port that follows from the run's id; every other host connects to it. The socket is plain TCP and
carries only indices and exit codes: keep the run's ports inside the cluster, as torch's own store needs too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ending import ABSENT, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

Message = dict[str, Any]


def ports(run: str) -> list[int]:
    """The ports that this run may use, in the order in which they are tried: the same on every host.

    They lie below Linux's ephemeral range (32768 and up), so a client socket cannot take one by chance.
    """
    first = int.from_bytes(hashlib.sha256(run.encode()).digest()[:4], "big")
    return [20000 + (first + 37 * i) % 12000 for i in range(16)]


class Link:
    """A connection that carries one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r", encoding="utf-8")

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # a host that is gone is noticed by whoever reads
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float | None) -> Message:
        """The next message, or {} when the connection closed, timed out or carried something else."""
        self._connection.settimeout(timeout)
        with contextlib.suppress(OSError, ValueError):
            message = json.loads(self._lines.readline(65536))
            if isinstance(message, dict):
                return message
        return {}

    def keep_alive(self) -> None:
        # A host that loses power sends no FIN: without probes the run would wait for NCCL's half hour.
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        times = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30000}
        for name, value in times.items():
            if hasattr(socket, name):
                self._connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def close(self) -> None:
        self._connection.close()


@dataclass
class Peers:
    """The links of this host: node 0 has one to every other host, every other host one to node 0."""

    hosts: list[str] = field(default_factory=list)
    links: dict[int, Link] = field(default_factory=dict)

    def tell(self, but: int = -1, **message: Any) -> None:
        for node, link in self.links.items():
            if node != but:
                link.send(**message)

    def follow(self, heard: Callable[[int, Message], None]) -> None:
        """Call `heard(node, message)` for every message; the last one is {"type": "lost"} unless "done" came."""
        for node in self.links:
            threading.Thread(target=self._follow, args=(node, heard), daemon=True).start()

    def _follow(self, node: int, heard: Callable[[int, Message], None]) -> None:
        done = False
        while message := self.links[node].receive(None):
            done = done or message.get("type") == "done"
            heard(node, message)
        if not done:
            heard(node, {"type": "lost"})


def meet(
    hosts: list[str], index: int, run: str, limit: float, say: Callable[[str], None]
) -> tuple[Peers, int]:
    """Connect this host with node 0 and agree on the master port, within `limit` seconds.

    Raises Stop that names the hosts that never came.
    """
    if len(hosts) == 1:
        return Peers(hosts), free_port(run)
    return _host(hosts, run, limit, say) if index == 0 else _join(hosts, index, run, limit)


def listen(port: int) -> socket.socket | None:
    """A socket that listens on every address of this host, or None when the port is taken.

    Not on the address of the host's own name: many systems map that to 127.0.1.1.
    """
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError:
        return None


def free_port(run: str, taken: int = 0) -> int:
    """The first of the run's ports that is free, for MASTER_PORT."""
    for port in ports(run):
        server = listen(port) if port != taken else None
        if server:
            server.close()
            return port
    raise Stop(ABSENT, f"all ports of this run are taken: {', '.join(map(str, ports(run)))}")


def _host(hosts: list[str], run: str, limit: float, say: Callable[[str], None]) -> tuple[Peers, int]:
    deadline = time.monotonic() + limit
    peers = Peers(hosts)
    port = free_port(run)
    server = listen(port)
    if server is None:
        raise Stop(ABSENT, f"port {port} was taken while this run started")
    say(f"waiting at {hosts[0]}:{port} for {len(hosts) - 1} more hosts")
    with server:
        while len(peers.links) < len(hosts) - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                absent = [name for i, name in enumerate(hosts) if i and i not in peers.links]
                shown = ", ".join(absent[:20]) + (f" and {len(absent) - 20} more" if len(absent) > 20 else "")
                peers.tell(type="absent", hosts=shown)
                raise Stop(ABSENT, f"{shown} never came, in {limit:.0f} s") from None
            _greet(Link(connection), run, peers)
    master = free_port(run, taken=port)
    peers.tell(type="go", port=master)
    return peers, master


def _greet(link: Link, run: str, peers: Peers) -> None:
    """Admit a host that names this run and an index that is still missing; anything else is another program."""
    hello = link.receive(5)
    node = hello.get("node")
    wanted = isinstance(node, int) and 0 < node < len(peers.hosts) and node not in peers.links
    if hello.get("run") != run or not wanted:
        link.close()
        return
    link.keep_alive()
    peers.links[hello["node"]] = link
    link.send(type="welcome", run=run)


def _join(hosts: list[str], index: int, run: str, limit: float) -> tuple[Peers, int]:
    deadline = time.monotonic() + limit
    why = ""
    while time.monotonic() < deadline:
        for port in ports(run):
            try:
                link = Link(socket.create_connection((hosts[0], port), timeout=5))
            except OSError as error:
                why = error.strerror or str(error)
                continue
            link.send(run=run, node=index)
            if link.receive(5).get("run") != run:  # another program has this port here
                link.close()
                continue
            link.keep_alive()
            answer = link.receive(deadline - time.monotonic() + 30)
            if answer.get("type") == "go":
                return Peers(hosts, {0: link}), int(answer["port"])
            absent = answer.get("hosts")
            raise Stop(ABSENT, f"{absent} never came" if absent else f"{hosts[0]} left before the start")
        time.sleep(0.2)
    raise Stop(ABSENT, f"{hosts[0]}, the first host, never came, in {limit:.0f} s ({why})")

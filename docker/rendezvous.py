"""How the hosts of a run meet.

Owns the run's ports and the wait; the connections stay open, and are links.py's. Node 0 listens on a port that follows
from the run's id; every other host connects to it and says

    {"run": …, "node": 3, "token": …}      node 0 answers {"type": "welcome", "run": …}, and when all have come
                                           {"type": "go", "port": …} or {"type": "absent", "hosts": …}

That is plain TCP with nothing secret in it: keep the run's ports inside the cluster, as torch's own store needs too.
"""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import time
import zlib
from typing import TYPE_CHECKING

from ending import ABSENT, Stop
from links import ANSWER, Link, Peers

if TYPE_CHECKING:
    from collections.abc import Callable

NEWS = 30.0  # seconds between two lines that say who is still missing


def ports(run: str) -> list[int]:
    """The ports that this run may use, in the order in which they are tried: the same on every host.

    They lie below Linux's ephemeral range (32768 and up), so a client socket cannot take one by chance.
    """
    return [20000 + (zlib.crc32(run.encode()) + 37 * i) % 12000 for i in range(16)]


def meet(hosts: list[str], index: int, run: str, *, limit: float, say: Callable[[str], None]) -> Peers:
    """Connect this host with node 0 within `limit` seconds; node 0 then has to tell the others "go" and the port.

    Raises Stop that names the hosts that never came.
    """
    if index:
        return _join(hosts, index, run, limit=limit, say=say)
    # torch binds the port after a minute of imports. Until then another run, or a client's socket, could take it; now
    # it cannot, and torch can: its own socket has SO_REUSEADDR too, and this one never listens.
    reserved = _reserve(run)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    peers = Peers(hosts, reserved.getsockname()[1], reserved=reserved)
    if len(hosts) > 1:
        with _reserve(run) as server:
            _gather(server, peers, run, limit=limit, say=say)
    return peers


def _reserve(run: str) -> socket.socket:
    """A socket on the first of the run's ports that nothing else has. Raises Stop when all are taken.

    It has every address of this host, not that of the host's own name: many systems map that to 127.0.1.1.
    Without SO_REUSEADDR, so that a port which another run holds is taken too.
    """
    dual = socket.has_dualstack_ipv6()
    for port in ports(run):
        bound = socket.socket(socket.AF_INET6 if dual else socket.AF_INET)
        with contextlib.suppress(OSError):
            if dual:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.bind(("", port))
            return bound
        bound.close()
    raise Stop(ABSENT, f"all ports of this run are taken here: {', '.join(map(str, ports(run)))}")


def _gather(
    server: socket.socket, peers: Peers, run: str, *, limit: float, say: Callable[[str], None]
) -> None:
    """Admit every other host. One loop over all connections: a silent one keeps nobody waiting."""
    start = time.monotonic()
    _allow_files(len(peers.hosts) + 256)
    server.listen(4096)
    server.setblocking(False)
    say(f"waiting at {peers.hosts[0]}:{server.getsockname()[1]} for {len(peers.hosts) - 1} more hosts")
    with selectors.DefaultSelector() as ready:
        ready.register(server, selectors.EVENT_READ)
        while len(peers.links) < len(peers.hosts) - 1:
            left = start + limit - time.monotonic()
            events = ready.select(max(0.0, min(left, NEWS)))
            if not events and left <= 0:  # whoever came while this process stood still has come
                peers.tell(type="absent", hosts=_absent(peers))
                raise Stop(ABSENT, f"{_absent(peers)} never came within {limit:.0f} s")
            if not events and left > NEWS:
                say(f"still waiting for {_absent(peers)}")
            for key, _ in events:
                if key.data is None:
                    with contextlib.suppress(OSError):
                        link = Link(server.accept()[0])
                        ready.register(link.socket, selectors.EVENT_READ, link)
                elif not (key.data.read() and _greet(key.data, peers, run)):
                    ready.unregister(key.fileobj)
                    _drop(key.data, peers)
        for key in ready.get_map().values():
            if key.data and not key.data.token:  # another program
                key.data.socket.close()


def _absent(peers: Peers) -> str:
    absent = [host for node, host in enumerate(peers.hosts) if node and node not in peers.links]
    return ", ".join(absent[:20]) + (f" and {len(absent) - 20} more" if len(absent) > 20 else "")


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def _greet(link: Link, peers: Peers, run: str) -> bool:
    """Admit a host that names this run and an index that is missing. False: not one of ours."""
    if link.token or not link.inbox:  # admitted, or its first line is not complete
        return True
    hello = link.inbox.popleft()
    node, token = hello.get("node"), hello.get("token")
    if hello.get("run") != run or type(node) is not int or not 0 < node < len(peers.hosts):
        return False
    former = peers.links.get(node)
    if former and former.token != token:
        link.send(type="taken", run=run)
        return False
    link.token = str(token)
    link.keep_alive()
    peers.links[node] = link  # a former link of the same process is one that it gave up
    link.send(type="welcome", run=run)
    return True


def _drop(link: Link, peers: Peers) -> None:
    link.socket.close()
    for node in [node for node, known in peers.links.items() if known is link]:
        del peers.links[node]


def _join(hosts: list[str], index: int, run: str, *, limit: float, say: Callable[[str], None]) -> Peers:
    start = time.monotonic()
    token, why, pause, news = os.urandom(8).hex(), "", 0.02, start + NEWS
    while (now := time.monotonic()) < start + limit:
        reached = _find(hosts[0], run, index, token=token, deadline=start + limit)
        if isinstance(reached, Link):
            answer = reached.receive(None)  # node 0 keeps the time from here on
            if answer.get("type") == "go":
                return Peers(hosts, int(answer["port"]), {0: reached})
            if answer.get("type") == "absent":
                raise Stop(ABSENT, f"{answer['hosts']} never came")
            reached = "it went away"
        why = reached
        if now > news:
            say(f"still waiting for {hosts[0]}, the first host ({why})")
            news = now + NEWS
        time.sleep(min(pause, max(0.0, start + limit - time.monotonic())))
        pause = min(2.0, pause * 1.5)
    raise Stop(ABSENT, f"{hosts[0]}, the first host, never came within {limit:.0f} s ({why})")


def _find(host: str, run: str, node: int, *, token: str, deadline: float) -> Link | str:
    """A link on which node 0 said welcome, or why there is none."""
    why = ""
    for port in ports(run):
        patience = min(ANSWER, max(0.1, deadline - time.monotonic()))
        try:
            link = Link(socket.create_connection((host, port), patience))
        except ConnectionError as error:  # nothing listens there: maybe at the next port
            why = error.strerror or str(error)
            continue
        except OSError as error:  # no address, no route, no answer: the same at every port
            return error.strerror or str(error)
        link.send(run=run, node=node, token=token)
        answer = link.receive(patience)
        if answer.get("run") == run and answer.get("type") == "welcome":
            link.keep_alive()
            return link
        link.socket.close()
        if answer.get("run") == run:
            return "another process is there for this host"
        why = "another program is there"
    return why

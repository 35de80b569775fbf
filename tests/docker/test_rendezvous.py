"""How hosts meet (docker/rendezvous.py, docker/links.py): real sockets, each host a thread on this machine."""

from __future__ import annotations

import contextlib
import importlib
import json
import queue
import re
import socket
import threading
import time
import uuid
from concurrent import futures
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# docker/ is what runs in the image, not a package of the launcher: its modules are plain files on sys.path.
ending = importlib.import_module("ending")
links = importlib.import_module("links")
rendezvous = importlib.import_module("rendezvous")

LIMIT = 60.0  # seconds; more than any test needs on a busy machine


@pytest.fixture
def run() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def quiet(_message: str) -> None:
    pass


def start(pool: futures.Executor, hosts: list[str], node: int, run: str, limit: float = LIMIT) -> Any:
    return pool.submit(rendezvous.meet, hosts, node, run, limit=limit, say=quiet)


def all_meet(hosts: list[str], run: str) -> list[Any]:
    """What `meet` gave every host, after node 0 said "go" as the node entry does."""
    with futures.ThreadPoolExecutor(len(hosts)) as pool:
        meeting = [start(pool, hosts, node, run) for node in range(len(hosts))]
        first = meeting[0].result(LIMIT)
        first.tell(type="go", port=first.port)
        return [peers.result(LIMIT) for peers in meeting]


def first_host(pool: futures.Executor, hosts: list[str], run: str) -> tuple[Any, Callable[[], socket.socket]]:
    """Node 0, waiting, and what connects to it."""
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    first = pool.submit(rendezvous.meet, hosts, 0, run, limit=LIMIT, say=said.put)
    found = re.fullmatch(r"waiting at 127\.0\.0\.1:(\d+) for \d+ more hosts", said.get(timeout=LIMIT))
    assert found
    where = ("127.0.0.1", int(found[1]))
    return first, lambda: socket.create_connection(where, timeout=LIMIT)


def hello(connection: socket.socket, **message: Any) -> bytes:
    """What node 0 answers: a line, or b"" when it hangs up."""
    connection.sendall(json.dumps(message).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        return connection.makefile("rb").readline()
    return b""


def hang_up(made: list[Any]) -> None:
    for peers in made:
        for link in peers.links.values():
            link.socket.close()
        if peers.reserved:
            peers.reserved.close()


def test_ports_follow_from_the_run() -> None:
    one, same, other = rendezvous.ports("a/0"), rendezvous.ports("a/0"), rendezvous.ports("a/1")
    assert one == same
    assert one != other
    assert len(set(one)) == 16
    assert all(20000 <= port < 32000 for port in one)


def test_three_hosts_meet(run: str) -> None:
    made = all_meet(["127.0.0.1", "127.0.0.2", "127.0.0.3"], run)
    assert [sorted(peers.links) for peers in made] == [[1, 2], [0], [0]]
    assert len({peers.port for peers in made}) == 1
    assert made[0].port in rendezvous.ports(run)
    hang_up(made)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_hosts_meet_over_ipv6(run: str) -> None:
    hang_up(all_meet(["::1", "::1"], run))


def test_one_host_waits_for_nobody(run: str) -> None:
    peers = rendezvous.meet(["127.0.0.1"], 0, run, limit=0.0, say=quiet)
    assert not peers.links
    hang_up([peers])


def test_the_master_port_is_held_for_torch(run: str) -> None:
    """Nobody else gets it, another run with the same numbers neither; a server with SO_REUSEADDR, as torch's, does."""
    peers = rendezvous.meet(["127.0.0.1"], 0, run, limit=0.0, say=quiet)
    with socket.socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("127.0.0.1", peers.port))
    again = rendezvous.meet(["127.0.0.1"], 0, run, limit=0.0, say=quiet)
    assert again.port != peers.port
    with (
        socket.create_server(("", peers.port)) as server,
        socket.create_connection(("127.0.0.1", peers.port), timeout=LIMIT) as client,
    ):
        server.accept()[0].sendall(b"torch")
        assert client.recv(5) == b"torch"
    hang_up([peers, again])


def test_all_ports_taken(run: str, closing: contextlib.ExitStack) -> None:
    for port in rendezvous.ports(run):
        with contextlib.suppress(OSError):
            closing.enter_context(socket.create_server(("", port)))
    with pytest.raises(ending.Stop, match="all ports of this run are taken here: ") as stop:
        rendezvous.meet(["127.0.0.1"], 0, run, limit=0.0, say=quiet)
    assert stop.value.code == 69


def silent(connection: socket.socket) -> None:
    connection.recv(1)  # the host's first byte, and then nothing more
    connection.makefile("rb").read()


def garbage(connection: socket.socket) -> None:
    connection.sendall(b"\xff\xfe\x00HTTP/1.1 400 Bad Request\r\n\r\n")


def slow(connection: socket.socket) -> None:
    while True:
        connection.sendall(b" ")
        time.sleep(0.01)


def liar(connection: socket.socket) -> None:
    """Says "go" without having said the run: must not be believed."""
    connection.sendall(b'{"type": "welcome", "run": "other"}\n{"type": "go", "port": 1}\n')


@pytest.mark.parametrize("program", [silent, garbage, slow, liar])
def test_another_program_on_the_port(
    program: Callable[[socket.socket], None], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendezvous, "ANSWER", 0.3)
    first = rendezvous.ports(run)[0]

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            program(connection)

    with socket.create_server(("127.0.0.1", first)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        made = all_meet(["127.0.0.1", "127.0.0.1"], run)
    assert made[1].port == made[0].port != first
    hang_up(made)


def test_strangers_delay_nobody(
    run: str, closing: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scanners, probes and half a greeting; the hosts meet before the time limit of a single connection."""
    monkeypatch.setattr(links, "ANSWER", LIMIT)
    hosts = ["127.0.0.1"] * 3
    with futures.ThreadPoolExecutor(3) as pool:
        first, dial = first_host(pool, hosts, run)
        for data in (
            *([b""] * 20),
            b"GET / HTTP/1.1\r\n\r\n",
            b'{"run": "',
            b"[" * 60000 + b"\n",
            b"x" * 70000,
            b"3\n",
        ):
            stranger = closing.enter_context(dial())
            with contextlib.suppress(ConnectionError):
                stranger.sendall(data)
        others = [start(pool, hosts, node, run) for node in (1, 2)]
        peers = first.result(LIMIT)
        peers.tell(type="go", port=peers.port)
        hang_up([peers, *(other.result(LIMIT) for other in others)])


@pytest.mark.parametrize("claim", [{"run": "other"}, {"node": 0}, {"node": 2}, {"node": True}, {"node": "1"}])
def test_a_wrong_greeting_is_refused(claim: dict[str, Any], run: str) -> None:
    hosts = ["127.0.0.1"] * 2
    with futures.ThreadPoolExecutor(2) as pool:
        first, dial = first_host(pool, hosts, run)
        with dial() as stranger:
            assert hello(stranger, **{"run": run, "node": 1, "token": "t", **claim}) == b""
        second = start(pool, hosts, 1, run)
        peers = first.result(LIMIT)
        peers.tell(type="go", port=peers.port)
        hang_up([peers, second.result(LIMIT)])


def test_an_index_belongs_to_one_process(run: str) -> None:
    """A second process with the same index waits; the same process that calls again replaces its first call."""
    hosts = ["127.0.0.1"] * 3
    with futures.ThreadPoolExecutor(2) as pool:
        first, dial = first_host(pool, hosts, run)
        with dial() as call, dial() as rival, dial() as again:
            assert b"welcome" in hello(call, run=run, node=1, token="t")
            assert b"taken" in hello(rival, run=run, node=1, token="u")
            assert b"welcome" in hello(again, run=run, node=1, token="t")
            call.close()  # the link that was given up: node 1 is still there
            second = start(pool, hosts, 2, run)
            peers = first.result(LIMIT)
            peers.tell(type="go", port=peers.port)
            assert b"go" in again.makefile("rb").readline()
            hang_up([peers, second.result(LIMIT)])


def test_a_host_that_dies_in_the_wait_may_come_back(run: str) -> None:
    hosts = ["127.0.0.1"] * 3
    with futures.ThreadPoolExecutor(3) as pool:
        first, dial = first_host(pool, hosts, run)
        with dial() as dies:
            assert b"welcome" in hello(dies, run=run, node=1, token="t")
        others = [start(pool, hosts, node, run) for node in (1, 2)]
        peers = first.result(LIMIT)
        peers.tell(type="go", port=peers.port)
        hang_up([peers, *(other.result(LIMIT) for other in others)])


@pytest.mark.heavy
def test_every_host_names_the_absent_ones(run: str) -> None:
    hosts = ["127.0.0.1", "127.0.0.2", "n3", "n4"]
    with futures.ThreadPoolExecutor(2) as pool:
        first, second = start(pool, hosts, 0, run, 1.0), start(pool, hosts, 1, run, 1.0)
        for waiting, message in ((first, "n3, n4 never came within 1 s"), (second, "n3, n4 never came")):
            error = waiting.exception(LIMIT)
            assert (str(error), error.code) == (message, 69)


def test_many_absent_hosts_are_counted(run: str) -> None:
    hosts = ["127.0.0.1", *(f"n{i}" for i in range(1, 64))]
    with pytest.raises(ending.Stop, match=r"^n1, n2, .*, n20 and 43 more never came within 0 s$"):
        rendezvous.meet(hosts, 0, run, limit=0.2, say=quiet)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("127.0.0.1", "Connection refused"),
        ("no-such-host.invalid", ""),  # the resolver's words differ
    ],
)
@pytest.mark.heavy
def test_an_absent_first_host_is_named(host: str, why: str, run: str) -> None:
    with pytest.raises(
        ending.Stop, match=rf"^{host}, the first host, never came within 1 s \(.*{why}"
    ) as stop:
        rendezvous.meet([host, "127.0.0.1"], 1, run, limit=1.0, say=quiet)
    assert stop.value.code == 69


def test_the_first_host_may_come_last(run: str) -> None:
    hosts = ["127.0.0.1"] * 2
    refused = threading.Event()
    connect = socket.create_connection

    def watched(*args: Any) -> socket.socket:
        try:
            return connect(*args)
        except ConnectionError:
            refused.set()
            raise

    with pytest.MonkeyPatch.context() as patch, futures.ThreadPoolExecutor(2) as pool:
        patch.setattr(socket, "create_connection", watched)
        second = start(pool, hosts, 1, run)
        assert refused.wait(LIMIT)
        first = start(pool, hosts, 0, run).result(LIMIT)
        first.tell(type="go", port=first.port)
        hang_up([first, second.result(LIMIT)])


def test_five_hundred_hosts_come_at_once(run: str, closing: contextlib.ExitStack) -> None:
    hosts = ["127.0.0.1", *(f"n{i}" for i in range(1, 501))]
    with futures.ThreadPoolExecutor(1) as pool:
        first, dial = first_host(pool, hosts, run)
        crowd = [closing.enter_context(dial()) for _ in hosts[1:]]
        for node, connection in enumerate(crowd, 1):
            connection.sendall(json.dumps({"run": run, "node": node, "token": str(node)}).encode() + b"\n")
        peers = first.result(LIMIT)
    assert sorted(peers.links) == list(range(1, 501))
    hang_up([peers])


def test_messages_and_the_end_are_heard(run: str) -> None:
    made = all_meet(["127.0.0.1"] * 3, run)
    heard: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
    made[0].follow(lambda node, message: heard.put((node, message)))
    made[1].tell(type="failed", code=3)
    assert heard.get(timeout=LIMIT) == (1, {"type": "failed", "code": 3})
    made[2].links[0].socket.close()
    assert heard.get(timeout=LIMIT) == (2, {"type": "lost"})
    made[1].tell(type="done")
    assert heard.get(timeout=LIMIT) == (1, {"type": "done"})
    hang_up(made)


def test_what_came_together_with_go_is_heard() -> None:
    ours, theirs = socket.socketpair()
    link = links.Link(ours)
    theirs.sendall(b'{"type": "go", "port": 7}\n{"type": "failed", "code": 3}\n{"type": "la')
    assert link.receive(LIMIT) == {"type": "go", "port": 7}
    heard: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()
    links.Peers(["a", "b"], 7, {0: link}).follow(lambda node, message: heard.put((node, message)))
    assert heard.get(timeout=LIMIT) == (0, {"type": "failed", "code": 3})
    theirs.sendall(b'st"}\n')
    assert heard.get(timeout=LIMIT) == (0, {"type": "last"})
    theirs.close()
    assert heard.get(timeout=LIMIT) == (0, {"type": "lost"})


def test_a_line_without_an_end_is_no_message() -> None:
    ours, theirs = socket.socketpair()
    link = links.Link(ours)
    for length, good in ((60_000, True), (10_000, False)):
        theirs.sendall(b"x" * length)
        assert link.read() is good
    assert not link.inbox


def test_more_hosts_than_open_files(run: str, closing: contextlib.ExitStack) -> None:
    """The usual soft limit of 1024 open files would end a run of more hosts; node 0 raises it."""
    resource = importlib.import_module("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    closing.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    with pytest.raises(ending.Stop, match="never came"):
        rendezvous.meet(["127.0.0.1", *(f"n{i}" for i in range(400))], 0, run, limit=0.0, say=quiet)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 401 + 256)


def test_a_dead_machine_is_noticed_without_a_goodbye(run: str) -> None:
    """A power cut sends no FIN: both ends of every link ask again after 10 s and give up after 30."""
    made = all_meet(["127.0.0.1"] * 2, run)
    for peers in made:
        for link in peers.links.values():
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert link.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle, interval, count = (link.socket.getsockopt(socket.IPPROTO_TCP, name) for name in options)
            assert idle + interval * count == 30
            assert link.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30000
    hang_up(made)

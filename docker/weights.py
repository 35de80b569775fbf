"""A model of the hub is fetched once a host, before its ranks start, and no host starts them before all have it.

Owns the process that fetches (model_fetch.py, with the ranks' Python), and the second meeting of the hosts:
{"type": "fetched"} to node 0, and {"type": "start"} from it, or {"type": "failed", …} either way.
"""

from __future__ import annotations

import ctypes
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import program
from ending import BAD_INPUT, LOST, NOT_STARTED, Stop

if TYPE_CHECKING:
    import argparse

    from links import Message, Peers

_LIBC = ctypes.CDLL(None)
PROGRAM = Path(__file__).with_name("model_fetch.py")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fetch", default="", metavar="MODEL", help="of the hub, before the ranks start")


def fetch(args: argparse.Namespace, variables: dict[str, str], peers: Peers) -> None:
    """Fetch what `--fetch` names, and wait until every host has. Raises Stop where one of them cannot."""
    if not args.fetch:
        return
    active = program.chosen(program.of(args), variables)
    words = [active.python if active else sys.executable, str(PROGRAM), args.fetch]
    code = _run(words, active.environment(variables) if active else variables)
    if code:
        known = code if code in (BAD_INPUT, NOT_STARTED) else NOT_STARTED
        raise Stop(known, f"model {args.fetch} could not be fetched (exit {code}); the lines above say why")
    _meet(peers)


def _run(words: list[str], variables: dict[str, str]) -> int:
    """The exit code of a process that ends with this one. Raises Stop when it cannot be started."""

    def prepare() -> None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    try:
        started = subprocess.Popen(words, env=variables, stdin=subprocess.DEVNULL, preexec_fn=prepare)
    except OSError as error:
        raise Stop(NOT_STARTED, f"{words[0]} cannot be started: {error.strerror}") from None
    with started as process:
        try:
            return process.wait()
        except BaseException:  # a signal
            process.kill()
            raise


def _meet(peers: Peers) -> None:
    """Wait until every host has fetched. Raises Stop as soon as one has failed or is lost."""
    if 0 in peers.links:
        peers.tell(type="fetched")
    answers = _answers(peers, "start" if 0 in peers.links else "fetched")
    for node, message in answers.items():
        if message.get("type") == "failed":
            raise Stop(int(message["code"]), f"{message['host']} could not fetch the model")
        if not message:
            raise Stop(LOST, f"lost {peers.hosts[node]} while the model was fetched")
    if 0 not in peers.links:
        peers.tell(type="start")


def _answers(peers: Peers, wanted: str) -> dict[int, Message]:
    """Node → what it said; {} where its connection ended. All of them, or none after one that is not `wanted`."""
    said: dict[int, Message] = {}
    with selectors.DefaultSelector() as ready:
        for node, link in peers.links.items():
            ready.register(link.socket, selectors.EVENT_READ, node)
        arrived = [(node, True) for node in peers.links]  # it may have come together with an earlier one
        while len(said) < len(peers.links):
            for node, alive in arrived:
                link = peers.links[node]
                if link.inbox:
                    said[node] = link.inbox.popleft()
                elif not alive:
                    said[node] = {}
                if node in said:
                    ready.unregister(link.socket)
                    if said[node].get("type") != wanted:
                        return said
            waits = len(said) < len(peers.links)
            arrived = [(key.data, peers.links[key.data].read()) for key, _ in ready.select()] if waits else []
    return said

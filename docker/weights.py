"""What ranks read of the hub is fetched once a host, before they start, and no host starts them before all have it.

Owns the process that fetches (model_fetch.py, with the ranks' Python), and the second meeting of the hosts:
{"type": "fetched"} to node 0, and {"type": "start"} from it, or {"type": "failed", …} either way, which node 0 tells
the others at once.
"""

from __future__ import annotations

import contextlib
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
    from collections.abc import Iterator

    from links import Message, Peers

_LIBC = ctypes.CDLL(None)
PROGRAM = Path(__file__).with_name("model_fetch.py")
_LOOK = 0.2  # seconds between looks at the process, while nothing is heard


def add_options(parser: argparse.ArgumentParser) -> None:
    for option, dest, what in (("--fetch", "models", "MODEL"), ("--fetch-tokenizer", "tokenizers", "NAME")):
        parser.add_argument(
            option,
            dest=dest,
            action="append",
            default=[],
            metavar=what,
            help="of the hub, before the ranks start",
        )


def fetch(args: argparse.Namespace, variables: dict[str, str], peers: Peers) -> None:
    """Fetch what the options name, and wait until every host has. Raises Stop as soon as one of them cannot."""
    wanted = [f"--model={name}" for name in args.models] + [f"--tokenizer={name}" for name in args.tokenizers]
    if not wanted:
        return
    active = program.chosen(program.of(args), variables)
    words = [active.python if active else sys.executable, str(PROGRAM), *wanted]
    with _started(words, active.environment(variables) if active else variables) as process:
        _together(process, peers, ", ".join([*args.models, *args.tokenizers]))


@contextlib.contextmanager
def _started(words: list[str], variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with this one, and with what waits for it. Raises Stop when it cannot be started."""

    def prepare() -> None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    try:
        process = subprocess.Popen(words, env=variables, stdin=subprocess.DEVNULL, preexec_fn=prepare)
    except OSError as error:
        raise Stop(NOT_STARTED, f"{words[0]} cannot be started: {error.strerror}") from None
    with process:
        try:
            yield process
        except BaseException:  # a signal, or another host's end
            process.kill()
            raise


def _together(process: subprocess.Popen[bytes], peers: Peers, names: str) -> None:
    """Wait until this host and all others have fetched. Raises Stop as soon as one has failed or is lost."""
    follows, fetched = 0 in peers.links, False
    waiting = set(peers.links)  # node 0 for what the others say, they for its word
    with selectors.DefaultSelector() as ready:
        for node, link in peers.links.items():
            ready.register(link.socket, selectors.EVENT_READ, node)
        arrived = [(node, True) for node in peers.links]  # it may have come together with an earlier one
        while True:
            for node, alive in arrived:
                _hear(node, alive, peers, waiting)
            if not fetched and process.poll() is not None:
                _check(process.returncode, names)
                fetched = True
                if follows:
                    peers.tell(type="fetched")
            if fetched and not waiting:
                break
            events = ready.select(None if fetched else _LOOK)
            arrived = [(key.data, peers.links[key.data].read()) for key, _ in events]
    if not follows:
        peers.tell(type="start")


def _hear(node: int, alive: bool, peers: Peers, waiting: set[int]) -> None:
    """Take a host off `waiting` when it says what is waited for. Raises Stop where it has failed or is lost."""
    link = peers.links[node]
    while link.inbox and (node or node in waiting):  # what node 0 says after "start" is of the ranks
        message = link.inbox.popleft()
        if message.get("type") != ("fetched" if node else "start"):
            raise _ended(peers, message, peers.hosts[node])
        waiting.discard(node)
    if not alive:
        raise _ended(peers, {}, peers.hosts[node])


def _ended(peers: Peers, message: Message, host: str) -> Stop:
    """Why the run ends, told to the others with the host that it is about."""
    why = message.get("why") or f"lost {host} before all had fetched from the hub"
    stop = Stop(int(message.get("code", LOST)), str(why), str(message.get("host", host)))
    peers.tell(type="failed", code=stop.code, rank=-1, host=stop.host, why=why)
    return stop


def _check(code: int, names: str) -> None:
    if code:
        known = code if code in (BAD_INPUT, NOT_STARTED) else NOT_STARTED
        raise Stop(known, f"{names} could not be fetched (exit {code}); the lines above say why")

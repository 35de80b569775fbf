"""The run's hosts and this host's place among them.

Owns the hostfile's grammar, which is DeepSpeed's, and how a host finds itself in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from typing import TYPE_CHECKING

from ending import BAD_INPUT, Stop

if TYPE_CHECKING:
    from pathlib import Path

# The index of this host, as each scheduler tells it.
INDEX_VARIABLES = ("SLURM_NODEID", "JOB_COMPLETION_INDEX", "LWS_WORKER_INDEX", "PET_NODE_RANK", "NODE_RANK")
PATIENCE = 60.0  # seconds from the start of this program until a pod's name is known
_STARTED = time.monotonic()
# DeepSpeed's grammar (deepspeed/launcher/runner.py, _parse_hostfile), which would read `slots=8x` as 8.
_LINE = re.compile(r"(\S+)\s+slots=([1-9][0-9]{0,3})\s*(#.*)?")


def read_hostfile(path: Path) -> dict[str, int]:
    """Host → slots, in order. Raises Stop where DeepSpeed would train on one host without a word."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Stop(BAD_INPUT, f"hostfile {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Stop(BAD_INPUT, f"hostfile {path} is not text") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise Stop(BAD_INPUT, f"{path}:{number}: {line!r} is not `host slots=N`")
        if match[1] in hosts:
            raise Stop(BAD_INPUT, f"{path}:{number}: host {match[1]} is listed twice")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise Stop(BAD_INPUT, f"hostfile {path} names no host")
    if len(set(hosts.values())) > 1:
        raise Stop(BAD_INPUT, f"hostfile {path}: every host needs the same number of slots")
    return hosts


def find_index(hosts: dict[str, int], given: int | None) -> int:
    """This host's place in the hostfile, from 0. Raises Stop when it is unknown, too high, or another host's."""
    source, index = "--node", given
    if index is None:
        source = next((name for name in INDEX_VARIABLES if os.environ.get(name, "").isdecimal()), "")
        index = int(os.environ.get(source, "0"))
    if not source and len(hosts) > 1:
        return _own_place(hosts)
    if not 0 <= index < len(hosts):
        raise Stop(BAD_INPUT, f"{source} is {index} but the hostfile is short: it has {len(hosts)} hosts")
    named, here = list(hosts)[index], socket.gethostname()
    if _short(named) != _short(here) and not _becomes_mine(named):
        raise Stop(BAD_INPUT, f"the hostfile names {named} at index {index}, but this host is {here}")
    return index


def _own_place(hosts: dict[str, int]) -> int:
    """The index of the one host that is named as this one, for pods that nothing numbers, as those of an MPIJob."""
    here = _short(socket.gethostname())
    mine = [index for index, host in enumerate(hosts) if _short(host) == here]
    if len(mine) != 1:
        raise Stop(BAD_INPUT, f"{len(hosts)} hosts but no index: none of {', '.join(INDEX_VARIABLES)} is set")
    return mine[0]


def _short(host: str) -> str:
    return host.partition(".")[0].casefold()


def _becomes_mine(host: str) -> bool:
    """Whether `host` is this machine: a pod's name within PATIENCE, since its record follows the pod.

    A pod on the host's network is called as its node, and for a while its name is nobody's, or still that of the node
    where its predecessor was: https://github.com/coredns/coredns/tree/v1.12.0/plugin/cache keeps answers for 30 s.
    """
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    while not (found := _is_mine(host)) and in_pod and time.monotonic() < _STARTED + PATIENCE:
        time.sleep(1.0)
    return found


def _is_mine(host: str) -> bool:
    """Whether `host` resolves to an address of this machine: only such an address can be bound."""
    with contextlib.suppress(OSError):
        for family, kind, proto, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, kind, proto) as probe:
                probe.bind(address)
                return True
    return False

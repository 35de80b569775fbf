"""The address of a server: a free port, whether it answers, and the name by which others reach it."""

from __future__ import annotations

import ipaddress
import socket
import urllib.request
from typing import TYPE_CHECKING

from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workloads.placement import Place

SCHEDULERS = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")  # set where one of them runs the ranks


def default_host(place: Place, env: Mapping[str, str]) -> str:
    """Where a server listens if nothing says where: everywhere under a scheduler or for several hosts, else here."""
    return everywhere() if place.hosts > 1 or any(name in env for name in SCHEDULERS) else "127.0.0.1"


def everywhere() -> str:
    """All addresses of this host: IPv4's, or IPv6's where its name has no other."""
    try:
        found = {family for family, *_ in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return "0.0.0.0"
    return "::" if found == {socket.AF_INET6} else "0.0.0.0"


def is_open(host: str) -> bool:
    """Whether other hosts reach a server that listens there."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def free_port() -> int:
    """A port that is free on this host now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise Stop when another program listens there already, before a large model is loaded for nothing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Stop(
                f"--host {host} --port {port}: {reason}; give another --port, or 0 for a free one"
            ) from None


def answers(host: str, port: int | None) -> bool:
    """Whether the server says that it is healthy."""
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with plain.open(f"http://{here}:{port}/health", timeout=5) as answer:
            return int(answer.status) == 200
    except OSError:  # not yet
        return False


def name(host: str, place: Place) -> str:
    """The name by which others reach a server that listens at `host`."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    return place.master if place.hosts > 1 else socket.gethostname()

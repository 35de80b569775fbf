"""What a host says of itself: interfaces, RDMA devices, driver, GPU, memory; standard library, and torch for its GPU.

Owns the reading of /sys and /proc. What is not there is left out or None, never guessed:
https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-class-net
https://www.kernel.org/doc/Documentation/ABI/stable/sysfs-class-infiniband
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import inventory

if TYPE_CHECKING:
    import torch

_SIOCGIFADDR = 0x8915  # netdevice(7)


def facts(device: torch.device, peer: str, sys: Path = Path("/sys")) -> dict[str, Any]:
    """One host's facts. `peer`: an address of another host, which says through which interface hosts are reached."""
    return {
        "host": socket.gethostname(),
        "cpus": len(os.sched_getaffinity(0)),
        "driver": inventory.driver(),
        "interface": through(peer),
        "interfaces": list(interfaces(sys)),
        "rdma": list(rdma(sys)),
        **_gpu(device),
    }


def interfaces(sys: Path) -> list[dict[str, Any]]:
    """Network interfaces but the loopback: name, state, and Mb/s where the driver knows it."""
    found = []
    for path in sorted((sys / "class/net").glob("*")):
        if path.name != "lo" and (path / "operstate").exists():
            speed = _text(path / "speed")
            rate = int(speed) if speed.isdecimal() else None
            found.append({"name": path.name, "state": _text(path / "operstate"), "megabits": rate})
    return found


def rdma(sys: Path) -> list[dict[str, Any]]:
    """RDMA devices by port: name, port, layer (InfiniBand or Ethernet), state, rate, in the kernel's words."""
    found = []
    for port in sorted((sys / "class/infiniband").glob("*/ports/*")):
        words = {key: _text(port / name) for key, name in _PORT.items()}
        found.append({"name": port.parent.parent.name, "port": port.name, **words})
    return found


_PORT = {"layer": "link_layer", "state": "state", "rate": "rate"}


def through(peer: str) -> str:
    """The interface whose address this host has towards `peer`; '' where there is none, or it is this host."""
    own = address(peer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex() if own else ():
            with contextlib.suppress(OSError):  # one without an address
                told = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(told[20:24]) == own and name != "lo":
                    return name
    return ""


def address(peer: str) -> str:
    """This host's address towards `peer`; '' without a route."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((peer, 9))  # UDP sends nothing to connect: the kernel looks up the route
        return str(asking.getsockname()[0])
    return ""


def _gpu(device: torch.device) -> dict[str, Any]:
    """The device's name, and the bytes that torch has of it; on a CPU those of the host, or of its control group."""
    import torch

    if device.type == "cuda":
        return {
            "gpu": torch.cuda.get_device_name(),
            "memory": torch.cuda.mem_get_info()[1],
            "free": torch.cuda.mem_get_info()[0],
        }
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _text(Path("/sys/fs/cgroup/memory.max"))
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return {"gpu": "", "memory": min(whole, int(limit)) if limit.isdecimal() else whole, "free": free}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # `speed` of an interface that is down
        return ""

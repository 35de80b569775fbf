"""What a probe found on the hosts of a cluster, as a cluster file says it. Pure.

Owns which of the figures become fields, where there is one answer, and the words of those that stay comments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import units
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.files.measured import Measured, Probe


class Seen(NamedTuple):
    """What goes into a file. `interface` is '' and `bandwidth` (Gb/s) 0 where there is no one answer."""

    run: str
    date: str
    interface: str
    bandwidth: int
    comments: tuple[str, ...]


def seen(found: Measured | None) -> Seen | None:
    """What of a probe goes into a cluster file; None where nothing was measured."""
    if found is None:
        return None
    names = {host.interface for host in found.probe.hosts} - {""}
    among = [c.rate.value for c in found.probe.collectives if c.scope == "world"]
    return Seen(
        run=found.run,
        date=found.measured[:10],
        interface=names.pop() if len(names) == 1 else "",
        bandwidth=max(1, round(max(among) * 8 / 1e9)) if among else 0,
        comments=(*_devices(found.probe), *_rates(found.probe)),
    )


def _devices(probe: Probe) -> Iterator[str]:
    device = "GPU" if probe.device == "cuda" else "host"
    yield f"torch has {units.gigabytes(min(h.memory for h in probe.hosts))} of a {device}"
    for driver in sorted({h.driver for h in probe.hosts} - {""}):
        yield f"driver {driver}"
    for one in {i.name: i for host in probe.hosts for i in host.interfaces}.values():
        yield f"interface {one.name}: {one.state}" + (f", {one.megabits} Mb/s" if one.megabits else "")
    for port in {(d.name, d.port): d for host in probe.hosts for d in host.rdma}.values():
        yield f"RDMA device {port.name}, port {port.port}: {port.layer}, {port.state}, {port.rate}"


def _rates(probe: Probe) -> Iterator[str]:
    for scope, where in (("host", "within a host"), ("world", "among hosts")):
        rates = [c.rate.value for c in probe.collectives if c.scope == scope]
        if rates:
            yield f"bus bandwidth {where}: {max(rates) / 1e9:.3g} GB/s"
    for disk in probe.disks:
        yield f"{disk.what}: {disk.write.value / 1e9:.2g} GB/s written, {disk.read.value / 1e9:.2g} GB/s read"
    for host in probe.slow.hosts:
        yield f"SLOW: host {host}"
    for link in probe.slow.links:
        yield f"SLOW: the link of {' and '.join(link)}"

"""What was measured of a cluster, beside its file: NAME.yaml, NAME.measured.json.

Owns the form below, version 1, and what makes such a file of no use: then the plan goes on without it and says so once.
The figures of `probe` are those of docker/workloads/probe.py, which explains each. `launcher cluster probe` and
`launcher cluster measured` write it, and keep the file before as NAME.measured.json.1.

    format    1
    measured  when it was written, as 2026-11-26T06:30:00Z
    gpu       what the cluster file says of the GPU; null: none
    slots     of a host, as there
    image     that the probe ran in, with or without a container
    run       the probe's id
    probe     its probe.json
    runs      of finished runs: what was forecast from that probe alone, and what they took
"""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from launcher.errors import Place, Problem
from launcher.files import validation
from launcher.files.fields import Range, field
from launcher.frozen import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.files.cluster import Cluster

FORMAT = 1
_MOST = 2**22  # characters; what is cut is no JSON
_AGAIN = "it is not used; `launcher cluster probe` measures anew"
PerSecond = Annotated[float, Range(1, 10**21)]
Number = Annotated[int, Range(0, 10**18)]
Seconds = Annotated[float, Range(0, 10**9)]


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The median, the least and the most of several rounds."""

    value: PerSecond = field()
    low: PerSecond = field()
    high: PerSecond = field()


@dataclass(frozen=True, kw_only=True)
class Matrix:
    type: Literal["bf16", "fp16", "fp32"] = field()
    size: Annotated[int, Range(1, 10**6)] = field()
    rate: Rate = field()


@dataclass(frozen=True, kw_only=True)
class Collective:
    kind: Literal["all_reduce", "all_gather", "reduce_scatter"] = field()
    scope: Literal["host", "world"] = field()
    ranks: Annotated[int, Range(2, 10**6)] = field()
    bytes: Annotated[int, Range(1, 10**15)] = field()
    rate: Rate = field()


@dataclass(frozen=True, kw_only=True)
class Transfer:
    what: Literal["to_device", "from_device"] = field()
    rate: Rate = field()


@dataclass(frozen=True, kw_only=True)
class Disk:
    what: Literal["run folder", "scratch"] = field()
    write: Rate = field()
    read: Rate = field()


@dataclass(frozen=True, kw_only=True)
class Pair:
    hosts: list[str] = field()
    rate: PerSecond = field()


@dataclass(frozen=True, kw_only=True)
class Interface:
    name: str = field()
    state: str = field()
    megabits: Number | None = field()


@dataclass(frozen=True, kw_only=True)
class Device:
    name: str = field()
    port: str = field()
    layer: str = field()
    state: str = field()
    rate: str = field()


@dataclass(frozen=True, kw_only=True)
class Host:
    host: str = field()
    cpus: Number = field()
    driver: str = field()
    gpu: str = field()
    memory: Number = field()
    free: Number = field()
    rate: PerSecond = field()
    interface: str = field()
    interfaces: list[Interface] = field()
    rdma: list[Device] = field()


@dataclass(frozen=True, kw_only=True)
class Slow:
    hosts: list[str] = field()
    links: list[list[str]] = field()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The figures of docker/workloads/probe.py."""

    format: Annotated[int, Range(1, 1)] = field()
    time: Number = field()
    device: Literal["cuda", "cpu"] = field()
    ranks: Annotated[int, Range(1, 10**6)] = field()
    slots: Annotated[int, Range(1, 9999)] = field()
    versions: dict[str, str] = field()
    hosts: list[Host] = field()
    matrix: list[Matrix] = field()
    memory: Rate = field()
    transfers: list[Transfer] = field()
    collectives: list[Collective] = field()
    pairs: list[Pair] = field()
    disks: list[Disk] = field()
    slow: Slow = field()

    def __post_init__(self) -> None:
        if not self.hosts or not self.matrix:
            raise ValueError("has no hosts, or no matrix")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A finished run: seconds of a step and of a checkpoint (null: none was written), bytes at the peak of rank 0."""

    run: str = field()
    predicted: Seconds = field(description="Seconds of a step from the probe alone.")
    passes: Annotated[float, Range(0, 10**12)] = field(description="Layers that a step goes through.")
    seconds: Seconds = field()
    memory: Number | None = field()
    planned_memory: Number | None = field()
    checkpoint_seconds: Seconds | None = field()
    checkpoint_bytes: Number | None = field()

    def __post_init__(self) -> None:
        if not self.predicted or not self.seconds:
            raise ValueError("has a step of no time")


@dataclass(frozen=True, kw_only=True)
class Measured:
    format: Annotated[int, Range(1, 1)] = field()
    measured: str = field()
    gpu: str | None = field()
    slots: Annotated[int, Range(1, 9999)] = field()
    image: str = field()
    run: str = field()
    probe: Probe = field()
    runs: list[Ran] = field()


def beside(path: Path, source: str, cluster: Cluster) -> Measured | Problem:
    """What was measured, or why the file at `path` is of no use for `cluster`. `source`: its name in messages."""
    try:
        if path.is_fifo():  # it would be waited for
            raise OSError(errno.EINVAL, "this is a pipe")
        with path.open(encoding="utf-8") as opened:
            text = opened.read(_MOST)
    except (OSError, ValueError) as error:
        return Problem(getattr(error, "strerror", None) or "this is not text", _AGAIN, Place(source))
    found = parse(text, source)
    return found if isinstance(found, Problem) else _of_another(found, cluster, source) or found


def parse(text: str, source: str) -> Measured | Problem:
    """What `text` says, or what is wrong with it."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        return Problem(f"not JSON: {error.msg}", _AGAIN, Place(source, error.lineno, error.colno))
    except (ValueError, RecursionError):  # a number of a million digits, brackets without an end
        return Problem("not JSON that can be read", _AGAIN, Place(source))
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT or isinstance(version, bool):
        what = f"it is of format {version}" if isinstance(version, int) else "these are no measurements"
        return Problem(f"{what}, and this launcher reads format {FORMAT}", _AGAIN, Place(source))
    value, violations = validation.read(Measured, data)
    if value is None:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        return Problem(violations[0].message + more, _AGAIN, Place(source))
    return value


def _of_another(found: Measured, cluster: Cluster, source: str) -> Problem | None:
    """Why it is not of this cluster."""
    differ = {"gpu": (found.gpu, cluster.gpu_name), "slots": (found.slots, cluster.slots)}
    for name, (then, now) in differ.items():
        if then != now:
            what = f"measured with {name} {_word(then)}, and the cluster file says {_word(now)}"
            return Problem(what, _AGAIN, Place(source))
    return None


def _word(value: Any) -> str:
    return "none" if value is None else str(value)

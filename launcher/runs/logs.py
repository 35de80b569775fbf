"""A run's own files, read: logs by rank or host, exit code, first failure, hosts.

Owns reading what job.sh and the node entry wrote below a run folder, torn or not; who wrote what is said in record.py,
and metrics.py reads what was measured.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

from launcher import units
from launcher.errors import RunNotFoundError
from launcher.namedtuple import NamedTuple
from launcher.runs import reading
from launcher.runs.status import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from launcher.runs.record import Run
    from launcher.runs.status import Selection, State


_PIECE = 2**20  # bytes of a log that are read at a time, and of what is shown as one line


def exit_code(folder: Path) -> int | None:
    """The run's exit code, once job.sh wrote it."""
    match = re.fullmatch(r"\d{1,3}\n?", _text(folder / "exit_code"), re.ASCII)
    return int(match[0]) if match else None


class Failure(NamedTuple):
    """The first failure of an attempt. Rank -1 is the node entry of `host`."""

    code: int
    rank: int
    host: str


def failure(folder: Path) -> Failure | None:
    """The first failure of the newest attempt, as docker/ending.py wrote it; None when there is none."""
    newest, at = _newest(folder, "outcome-*")
    _, started = _newest(folder, "hostfile*")
    if newest is None or at < started:  # of an attempt before the newest
        return None
    match = re.fullmatch(r"(\d{1,3}) (-1|\d{1,9}) (\S+) \S+\n?", _text(newest), re.ASCII)
    return (
        Failure(int(match[1]), int(match[2]), units.printable(match[3])) if match and int(match[1]) else None
    )


def _newest(folder: Path, pattern: str) -> tuple[Path | None, float]:
    """The file that was changed last, and when."""
    newest: tuple[Path | None, float] = (None, 0.0)
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # it may go away meanwhile
            newest = max(newest, (path, path.stat().st_mtime), key=lambda pair: pair[1])
    return newest


def _text(path: Path) -> str:
    """A small file of a run; '' when it cannot be read. Bytes that are not UTF-8 are replaced."""
    try:
        return reading.text(path, errors="replace")
    except OSError:
        return ""


def tail(path: Path, count: int = 20) -> list[str]:
    """The last `count` lines of a file; [] when there is none."""
    return read_bytes(path, -65536).decode("utf-8", "replace").splitlines()[-count:]


def lines(run: Run, selection: Selection, state: Callable[[], State]) -> Iterator[str]:
    """Log lines of the selection, from the beginning; with `follow` until the run has ended.

    Raises RunNotFoundError when the run has no such rank or host.
    """
    paths = _paths(run, selection)
    offsets = dict.fromkeys(paths, 0)
    pending = dict.fromkeys(paths, b"")
    several = len(paths) > 1
    while True:
        ended = not selection.follow or state() in ENDED
        for path in paths:
            more = True
            while more:
                data = read_bytes(path, offsets[path], _PIECE)
                more, offsets[path] = bool(data), offsets[path] + len(data)
                *whole, pending[path] = (pending[path] + data).split(b"\n")
                if (ended and not more and pending[path]) or len(pending[path]) >= _PIECE:
                    whole, pending[path] = [*whole, pending[path]], b""
                for line in whole:
                    text = line.decode("utf-8", "replace")
                    yield f"{path.stem}: {text}" if several else text
        if ended:
            return
        time.sleep(0.3)


def read_bytes(path: Path, start: int = 0, most: int = -1) -> bytes:
    """At most so many bytes of a file from byte `start`, below 0 from its end; none where it cannot be read."""
    try:
        with reading.opened(path) as file:
            file.seek(start if start >= 0 else max(0, path.stat().st_size + start))
            return file.read(most)
    except OSError:
        return b""


def _paths(run: Run, selection: Selection) -> list[Path]:
    folder = run.folder / "logs"
    if selection.rank is not None:
        require_rank(run, selection.rank, run.nodes)
        return [folder / f"rank-{selection.rank}.log"]
    if selection.host is not None:
        first = first_rank(run, selection.host, host_names(run.folder))
        return [folder / f"rank-{rank}.log" for rank in range(first, first + run.slots)]
    return [folder / "job.log", folder / "rank-0.log"]


def require_rank(run: Run, rank: int, hosts: int) -> None:
    """Raises RunNotFoundError when `run`, which has so many hosts, has no such rank."""
    if not 0 <= rank < hosts * run.slots:
        hint = f"ranks are 0 to {hosts * run.slots - 1}"
        raise RunNotFoundError(f"{run.id} has no rank {rank}", hint=hint)


def first_rank(run: Run, host: str, hosts: list[str]) -> int:
    """The first rank on `host`, one of `hosts`. Raises RunNotFoundError when it is none of them."""
    if host not in hosts:
        named = ", ".join(hosts) or "not known yet"
        raise RunNotFoundError(f"{run.id} has no host {host!r}", hint=f"its hosts: {named}")
    return hosts.index(host) * run.slots


def slurm_job(folder: Path) -> str:
    """The job id in the name of the newest hostfile, which of an array's element is its own; '' without one."""
    newest, _ = _newest(folder, "hostfile-*")
    match = re.fullmatch(r"hostfile-(\d+)-\d+", newest.name, re.ASCII) if newest else None
    return match[1] if match else ""


def host_names(folder: Path) -> list[str]:
    """The hosts of the newest hostfile of the run, in order of their ranks; [] before there is one."""
    newest, _ = _newest(folder, "hostfile*")
    return _hosts(newest)


def hosts(run: Run) -> int:
    """How many hosts its newest attempt has; before there is one, how many it may have."""
    return len(host_names(run.folder)) or run.nodes


def spare_names(folder: Path) -> list[str]:
    """The hosts that the newest attempt holds idle; [] where there are none."""
    return _hosts(folder / "spares")


def _hosts(path: Path | None) -> list[str]:
    """The first word of each line."""
    return (
        [units.printable(line.split()[0]) for line in _text(path).splitlines() if line.strip()]
        if path
        else []
    )

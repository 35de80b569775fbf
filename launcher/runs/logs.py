"""A run's own files, read: logs by rank or host, metrics, exit code.

Owns reading what job.sh, the node entry and rank 0 wrote below a run folder; who wrote what is said in record.py.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from launcher.errors import RunNotFoundError
from launcher.runs.status import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from launcher.runs.record import Run
    from launcher.runs.status import Selection, State


def exit_code(folder: Path) -> int | None:
    """The run's exit code, once job.sh wrote it."""
    try:
        return int((folder / "exit_code").read_text())
    except (OSError, ValueError):
        return None


def failure(folder: Path) -> tuple[int, int, str] | None:
    """(exit code, rank, host) of the first failure of the newest attempt, or None. Rank -1 is the node entry."""
    newest = max(folder.glob("outcome-*"), key=lambda p: p.stat().st_mtime, default=None)
    started = max((p.stat().st_mtime for p in folder.glob("hostfile*")), default=0.0)
    try:
        if newest and newest.stat().st_mtime < started:  # of an attempt before the newest
            return None
        code, rank, host, _ = newest.read_text().split() if newest else ("", "", "", "")
        return (int(code), int(rank), host) if int(code) else None
    except (OSError, ValueError):
        return None


def tail(path: Path, count: int = 20) -> list[str]:
    """The last `count` lines of a file; [] when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            return file.read().decode("utf-8", "replace").splitlines()[-count:]
    except OSError:
        return []


def metrics(folder: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The records of metrics.jsonl from byte `start`, and where to go on. A half-written last line waits."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(start)
            data = file.read()
    except OSError:
        return [], start
    whole = data.rpartition(b"\n")[0]
    records = []
    for line in whole.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records, start + (len(whole) + 1 if whole else 0)


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
            data, offsets[path] = _read(path, offsets[path])
            *whole, pending[path] = (pending[path] + data).split(b"\n")
            if ended and pending[path]:
                whole, pending[path] = [*whole, pending[path]], b""
            for line in whole:
                text = line.decode("utf-8", "replace")
                yield f"{path.stem}: {text}" if several else text
        if ended:
            return
        time.sleep(0.3)


def _read(path: Path, start: int) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except OSError:
        return b"", start
    return data, start + len(data)


def _paths(run: Run, selection: Selection) -> list[Path]:
    folder = run.folder / "logs"
    if selection.rank is not None:
        world = run.nodes * run.slots
        if not 0 <= selection.rank < world:
            raise RunNotFoundError(
                f"{run.id} has no rank {selection.rank}", hint=f"ranks are 0 to {world - 1}"
            )
        return [folder / f"rank-{selection.rank}.log"]
    if selection.host is not None:
        hosts = host_names(run.folder)
        if selection.host not in hosts:
            named = ", ".join(hosts) or "not known yet"
            raise RunNotFoundError(f"{run.id} has no host {selection.host!r}", hint=f"its hosts: {named}")
        first = hosts.index(selection.host) * run.slots
        return [folder / f"rank-{rank}.log" for rank in range(first, first + run.slots)]
    return [folder / "job.log", folder / "rank-0.log"]


def host_names(folder: Path) -> list[str]:
    """The hosts of the newest hostfile of the run, in order of their ranks; [] before there is one."""
    newest = max(folder.glob("hostfile*"), key=lambda p: p.stat().st_mtime, default=None)
    try:
        return [line.split()[0] for line in newest.read_text().splitlines() if line.strip()] if newest else []
    except OSError:
        return []

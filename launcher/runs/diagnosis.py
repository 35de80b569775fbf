"""Why a run failed, from what its newest attempt wrote: the rank that failed first, its last lines, likely causes.

Owns which files are read and in which order; the causes are in causes.py, the files' layout in record.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from launcher import exit_codes, units
from launcher.runs import causes, hangs, reading, slow
from launcher.runs import logs as runs_logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from launcher.runs.causes import Cause
    from launcher.runs.record import Run
    from launcher.runs.status import Status

_STALLED = exit_codes.BY_NAME["STALLED"].code
_SOCKETS = "NCCL on sockets"
_TCP = {"none", "loopback", "tcp"}
_MOST = 64  # logs of other ranks that are read


def report(run: Run, now: Status) -> list[str]:
    """Lines for a person: warnings, and for a run that failed the first failure and its likely causes."""
    lines = [line for w in warnings(run) for line in _cause("WARNING: ", w)]
    lines += [slow.words(rank) for rank in slow.read(run.folder)]
    if now.state != "FAILED":
        return lines
    failure = runs_logs.failure(run.folder)
    if failure and failure.code != exit_codes.SAVED:
        path = run.folder / "logs" / (f"rank-{failure.rank}.log" if failure.rank >= 0 else "job.log")
        who = f"rank {failure.rank}" if failure.rank >= 0 else "node entry"
        lines.append(f"first failure  {who} on {failure.host}, exit code {failure.code}")
        if failure.code == _STALLED and (hang := hangs.last(run.folder)):
            lines.append(f"hang           {units.printable(hang.verdict)}; stacks in {hang.folder}")
        path, last = _speaker(path, run.folder / "logs" / "rank-0.log")
        lines += [f"last lines of {path}:", *(f"  {units.printable(line)}" for line in last[-12:])]
    return lines + [line for cause in explain(run, now) for line in _cause("likely cause   ", cause)]


def _cause(title: str, cause: Cause) -> list[str]:
    return [f"{title}{cause.cause}", f"  evidence: {cause.evidence}", f"  fix: {cause.fix}"]


def explain(run: Run, now: Status) -> list[Cause]:
    """At most two known causes: from the first failing rank's log, else the job's and the hosts', else other ranks'.

    What the exit code alone says comes last, when no log says more.
    """
    failure = runs_logs.failure(run.folder)
    # why a run stalled is said by the node entry, and not in the log of a rank that hangs
    rank = failure.rank if failure and failure.code != _STALLED else -1
    for paths in _sources(run.folder, rank):
        lines = (line for path in paths for line in _newest(path))
        if shown := [
            c for c in causes.search(lines, is_fast(run.folder), run.scheduler) if c.name != _SOCKETS
        ]:
            return shown[:2]
    cause = causes.by_exit_code(failure.code if failure else now.exit_code, run.scheduler)
    return [cause] if cause else []


def warnings(run: Run) -> list[Cause]:
    """What is wrong although the run continues: NCCL on sockets where there is a fast fabric."""
    if not is_fast(run.folder):
        return []
    # NCCL names its network when it starts
    starts = (
        runs_logs.read_bytes(run.folder / "logs" / name, most=2**18) for name in ("rank-0.log", "job.log")
    )
    lines = (line for start in starts for line in start.decode("utf-8", "replace").splitlines())
    return [cause for cause in causes.search(lines, True, run.scheduler) if cause.name == _SOCKETS]


def is_fast(folder: Path) -> bool:
    """Whether the run's cluster has a fabric that is more than TCP."""
    try:
        cluster = json.loads(reading.text(folder / "plan.json"))["cluster"]
        return bool(cluster["gpu"]) and cluster["fabric"] not in _TCP
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _sources(folder: Path, rank: int) -> Iterator[list[Path]]:
    logs = folder / "logs"
    if rank >= 0:
        yield [logs / f"rank-{rank}.log"]
    yield [logs / "job.log", *sorted(logs.glob("slurm-*.log"))[-1:], *sorted(logs.glob("node-*.log"))[:_MOST]]
    yield sorted(logs.glob("rank-*.log"))[:_MOST]


def _speaker(path: Path, first: Path) -> tuple[Path, list[str]]:
    """A failed rank's log and its newest lines; rank 0's if it says nothing: where all stop alike, it says why."""
    last, of_first = _newest(path), _newest(first)
    silent = not any(line.strip() for line in last if not line.startswith("--- attempt "))
    return (first, of_first) if silent and of_first else (path, last)


def _newest(path: Path) -> list[str]:
    """The end of a log, without lines of earlier attempts."""
    lines = runs_logs.tail(path, 2000)
    starts = [i for i, line in enumerate(lines) if line.startswith("--- attempt ") or _starts_job(line)]
    return lines[starts[-1] :] if starts else lines


def _starts_job(line: str) -> bool:
    return line.startswith("job ") and ", attempt " in line

"""Why a run failed, from what its newest attempt wrote: the first failing rank, its last lines, known causes.

Owns which files are read and in which order; the causes are in causes.py, the files' layout in record.py.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from launcher import exit_codes
from launcher.runs import causes
from launcher.runs import logs as runs_logs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from launcher.runs.causes import Found
    from launcher.runs.record import Run
    from launcher.runs.status import Status

_TCP = {"none", "loopback", "tcp"}
_MOST = 64  # logs of other ranks that are read


def report(run: Run, now: Status) -> list[str]:
    """Lines for a person: warnings of a run that goes on or succeeded, and all that is known of one that failed."""
    lines = [f"WARNING: {w.cause}\n  evidence: {w.evidence}\n  fix: {w.fix}" for w in warnings(run)]
    if now.state != "FAILED":
        return lines
    failure = runs_logs.failure(run.folder)
    if failure and failure[0] != exit_codes.SAVED:
        code, rank, host = failure
        path = run.folder / "logs" / (f"rank-{rank}.log" if rank >= 0 else "job.log")
        who = f"rank {rank}" if rank >= 0 else "node entry"
        lines.append(f"first failure  {who} on {host}, exit code {code}")
        lines += [f"last lines of {path}:", *(f"  {line}" for line in _newest(path)[-12:])]
    for found in explain(run, now):
        lines += [f"likely cause   {found.cause}", f"  evidence: {found.evidence}", f"  fix: {found.fix}"]
    return lines


def explain(run: Run, now: Status) -> list[Found]:
    """At most two known causes: from the first failing rank's log, else the job's and the hosts', else other ranks'.

    What the exit code alone says comes last, when no log says more.
    """
    failure = runs_logs.failure(run.folder)
    fast = is_fast(run.folder)
    for paths in _sources(run.folder, failure[1] if failure else -1):
        found = [
            f for path in paths for f in causes.search(_newest(path), fast) if f.name != "NCCL on sockets"
        ]
        if found:
            return list({f.name: f for f in found}.values())[:2]
    alone = causes.of_code(failure[0] if failure else now.exit_code)
    return [alone] if alone else []


def warnings(run: Run) -> list[Found]:
    """What is wrong although the run goes on: NCCL on sockets where there is a fast fabric."""
    if not is_fast(run.folder):
        return []
    paths = [run.folder / "logs" / "rank-0.log", run.folder / "logs" / "job.log"]
    found = [f for path in paths for f in causes.search(_head(path), True) if f.name == "NCCL on sockets"]
    return found[:1]


def is_fast(folder: Path) -> bool:
    """Whether the run's cluster has a fabric that is more than TCP."""
    try:
        cluster = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["cluster"]
        return bool(cluster["gpu"]) and cluster["fabric"] not in _TCP
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sources(folder: Path, rank: int) -> Iterator[list[Path]]:
    logs = folder / "logs"
    if rank >= 0:
        yield [logs / f"rank-{rank}.log"]
    yield [logs / "job.log", *sorted(logs.glob("slurm-*.log"))[-1:], *sorted(logs.glob("node-*.log"))[:_MOST]]
    yield sorted(logs.glob("rank-*.log"))[:_MOST]


def _newest(path: Path) -> list[str]:
    """The end of a log, without lines of earlier attempts."""
    lines = runs_logs.tail(path, 2000)
    starts = [i for i, line in enumerate(lines) if line.startswith("--- attempt ") or _starts_job(line)]
    return lines[starts[-1] :] if starts else lines


def _starts_job(line: str) -> bool:
    return line.startswith("job ") and ", attempt " in line


def _head(path: Path) -> list[str]:
    """The first 256 KiB: NCCL names its network when it starts."""
    try:
        with path.open("rb") as file:
            return file.read(2**18).decode("utf-8", "replace").splitlines()
    except OSError:
        return []

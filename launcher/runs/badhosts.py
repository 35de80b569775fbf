"""Hosts that failed a preflight or were lost: a short list that `--exclude-bad` leaves out, and that expires.

Owns the file's format. Slurm's job script adds lines (templates/slurm/job.sh.j2), for Kubernetes `status` and `--wait`
do, and a person may edit it: one host a line, `host expires reason…`, the time as ISO 8601; `#` starts a comment.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.runs import reading

if TYPE_CHECKING:
    from pathlib import Path

NAME = "bad-hosts.txt"
_LISTED = 86400  # seconds, as in the script


class Bad(NamedTuple):
    """A host, when it is forgiven, and why it is listed."""

    host: str
    until: datetime
    reason: str


def path(runs: str) -> str:
    """The list of a folder of run folders."""
    return f"{runs}/{NAME}"


def current(runs: Path, now: datetime | None = None) -> list[Bad]:
    """The hosts that are listed now, each once with its newest line. A line that cannot be read counts as expired."""
    now = now or datetime.now(timezone.utc)
    try:
        lines = reading.text(runs / NAME, errors="replace").splitlines()
    except OSError:
        return []
    newest = {bad.host: bad for line in lines if (bad := _read(line)) and bad.until > now}
    return list(newest.values())


def add(runs: Path, host: str, reason: str, at: float) -> None:
    """Put `host` on the list for a day from `at`, Unix time; the same line only once. Raises OSError."""
    until = datetime.fromtimestamp(at + _LISTED, timezone.utc).isoformat(timespec="seconds")
    line = f"{host} {until} {' '.join(reason.replace('#', ' ').split())}\n"
    try:
        known = reading.text(runs / NAME, errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        known = []
    if line not in known:
        with (runs / NAME).open("a", encoding="utf-8") as file:
            file.write(line)


def _read(line: str) -> Bad | None:
    host, until, reason = [*line.partition("#")[0].split(None, 2), "", "", ""][:3]
    try:
        at = datetime.fromisoformat(until)
    except ValueError:
        return None
    return Bad(host, at if at.tzinfo else _local(at), reason.strip())


def _local(at: datetime) -> datetime:
    """A time that names no zone is this machine's; at the ends of the calendar, `for ever`, it has none."""
    try:
        return at.astimezone()
    except (OverflowError, ValueError, OSError):
        return at.replace(tzinfo=timezone.utc)

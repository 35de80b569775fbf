"""What the local run folder keeps for when a run's objects are gone: logs of its pods, and how it has ended.

Owns the form of `logs/node-N.log`, whose first line names the pod, and of `end.json`; when a log is written is
mirror.py's, how it is shown podlogs.py's.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from launcher import atomic
from launcher.errors import LauncherError
from launcher.runs import record
from launcher.runs.status import Status
from launcher.schedulers.kubernetes import hosts

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.runs.record import Run
    from launcher.schedulers.kubernetes.hosts import Pod

_END = "end.json"
_HEAD = "--- attempt of "  # the mark by which launcher/runs/diagnosis.py sees where an attempt begins


def write(run: Run, index: int, pod: Pod, lines: list[str]) -> None:
    """Keep `lines`, the end of the log of `pod`, which is the host `index`. An empty log replaces none."""
    path = _path(run, index)
    if lines:
        path.parent.mkdir(exist_ok=True)
        text = [f"{_HEAD}{' '.join(hosts.names(pod))}", *lines]
        path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")


def lines(run: Run, index: int) -> list[str]:
    """What was kept of a host's log, its head first; [] for nothing."""
    with contextlib.suppress(OSError):
        return _path(run, index).read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def names(run: Run) -> dict[int, list[str]]:
    """Index → the names by which a host whose log was kept is known."""
    heads = {}
    for index in range(run.nodes):
        head = lines(run, index)[:1]
        if head and head[0].startswith(_HEAD):
            heads[index] = head[0].removeprefix(_HEAD).split()
    return heads


def _path(run: Run, index: int) -> Path:
    return run.folder / "logs" / f"node-{index}.log"


def end(run: Run, uid: str, now: Status) -> Status:
    """Keep how the run whose object has this uid has ended, and return it: `cancel` and tidy clusters delete objects.

    What was seen first stays: it knew the pods.
    """
    if run.folder.is_dir() and ended(run, uid) is None:
        with contextlib.suppress(OSError):  # another user's
            atomic.write(
                run.folder / _END, json.dumps({"uid": uid, **now._asdict()}, indent=1).encode() + b"\n"
            )
    return now


def ended(run: Run, uid: str) -> Status | None:
    """How the run whose object had this uid has ended, where that was seen."""
    try:
        read = record.read_json(run.folder / _END)
        if read.pop("uid") == uid:
            return Status(**read | {"hosts": tuple(read["hosts"]), "spares": tuple(read["spares"])})
    except (LauncherError, OSError, KeyError, TypeError):
        pass
    return None

"""What a run's pods print: by rank or host, followed over restarts.

Owns the reading of pod logs; the run folder itself is on a volume of the cluster, where only pods can read it.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

from launcher.errors import RunNotFoundError
from launcher.runs import logs as runs_logs
from launcher.runs.status import ENDED
from launcher.schedulers import inside
from launcher.schedulers.kubernetes import api, applying, hosts, kept, kinds, waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from launcher.runs.record import Run
    from launcher.runs.status import Selection, State
    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place
    from launcher.schedulers.kubernetes.hosts import Pod

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|[+-]\d\d:\d\d)")
_PAUSE = 2.0  # seconds between looks for the next pod of a host


def lines(run: Run, selection: Selection, state: Callable[[], State]) -> Iterator[str]:
    """Log lines of one host, or of one rank of it (default: rank 0 and the node entry of the first host).

    Of every pod that the host has had, as far as the server still has them, else what was kept of them here. With
    `follow` until the run ends. Raises RunNotFoundError when the run has no such rank or host, or nothing is left.
    """
    server, at = applying.reach(run)
    index, rank = _wanted(server, at, run, selection)
    stamps: dict[str, str] = {}  # pod's uid → the stamp of its last line that was read
    done: set[str] = set()  # uids of pods that get no more lines
    while True:
        ended = selection.follow and state() in ENDED
        pods = hosts.attempts(at, hosts.pods(server, at, run), index)
        if not pods and (ended or not selection.follow):
            yield from [] if stamps else _kept(run, index, rank)
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid in done:
                continue
            if uid not in stamps and len(pods) > 1:
                yield f"--- pod {pod['metadata']['name']}"
            earlier, since = pod is not pods[-1], stamps.setdefault(uid, "")
            follow = selection.follow and not earlier
            stream = stamped(server, at, pod, since=since, follow=follow)
            for stamp, text in _what_is_left(stream) if earlier else stream:
                stamps[uid] = stamp or stamps[uid]
                yield from _of_rank((text,), rank)
            if earlier:
                done.add(uid)
        if ended or not selection.follow:
            return
        time.sleep(_PAUSE)


def shell(run: Run, selection: Selection, terminal: bool) -> list[str]:
    """The command that becomes a shell in the pod of a rank or host, beside the rank."""
    server, at = applying.reach(run)
    index, rank = _wanted(server, at, run, selection)
    pod = hosts.newest(at, hosts.pods(server, at, run)).get(index)
    if pod is None or not hosts.runs(at, pod):
        raise RunNotFoundError(f"host {index} of {run.id} has no pod that runs", hint="`status` shows why")
    words = ["kubectl", *([f"--context={at.context}"] if at.context else []), f"--namespace={at.namespace}"]
    words += ["exec", "-i", *(["-t"] if terminal else []), pod["metadata"]["name"]]
    words += [f"--container={kinds.KINDS[at.kind].container}", "--"]
    return words + inside.with_python(inside.program("", index * run.slots if rank is None else rank))


def _what_is_left(stream: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The log of an earlier pod, as far as its node still has it."""
    with contextlib.suppress(api.Refusal, RunNotFoundError):
        yield from stream


def _kept(run: Run, index: int, rank: int | None) -> Iterator[str]:
    lines = kept.lines(run, index)
    if not lines:
        raise RunNotFoundError(f"host {index} of {run.id} has no pod", hint="`status` shows why")
    yield from _of_rank(lines, rank)


def _of_rank(lines: Iterable[str], rank: int | None) -> Iterator[str]:
    return (line for text in lines if (line := of_rank(text, rank)) is not None)


def _wanted(server: Server, at: Place, run: Run, selection: Selection) -> tuple[int, int | None]:
    """(the host's index, the rank); None is every rank of the host."""
    if selection.rank is not None:
        runs_logs.require_rank(run, selection.rank, run.nodes)
        return selection.rank // run.slots, selection.rank
    if selection.host is None:
        return 0, 0
    live = {i: hosts.names(pod) for i, pod in hosts.newest(at, hosts.pods(server, at, run)).items()}
    names = live or kept.names(run)
    for index, known in names.items():
        if selection.host in known or selection.host.partition(".")[0] in known:
            return index, None
    every = ", ".join(known[0] for known in list(names.values())[:12])
    raise RunNotFoundError(f"{run.id} has no host {selection.host!r}", hint=every or "no pods yet")


def stamped(
    server: Server, at: Place, pod: Pod, *, since: str = "", follow: bool = False
) -> Iterator[tuple[str, str]]:
    """(time stamp, line) of a pod's log after the stamp `since`. A stream that breaks just ends.

    Raises RunNotFoundError, without `follow`, for a pod that has not started.
    """
    path = f"/api/v1/namespaces/{at.namespace}/pods/{pod['metadata']['name']}/log"
    query = {"container": kinds.KINDS[at.kind].container, "timestamps": "true"}
    query |= {"follow": "true"} if follow else {}
    query |= {"sinceTime": since} if since else {}
    try:
        for line in _split(server.text(path, **query)):
            match = _STAMP.match(line)
            if match is None:
                yield "", line
            elif not since or _order(match[0]) > _order(since):  # sinceTime counts in whole seconds
                yield match[0], line[match.end() + 1 :]
    except api.Refusal as refusal:
        if refusal.status == 400 and not follow:
            name = pod["metadata"]["name"]
            raise RunNotFoundError(f"{name} has not started", hint=waits.why(server, at, pod)) from None
        if refusal.status not in {0, 400, 404} or (refusal.status != 400 and not follow):
            raise


def tail(server: Server, at: Place, pod: Pod, count: int) -> list[str]:
    """The last `count` lines of a pod's log."""
    path = f"/api/v1/namespaces/{at.namespace}/pods/{pod['metadata']['name']}/log"
    return list(_split(server.text(path, container=kinds.KINDS[at.kind].container, tailLines=count)))


def _order(stamp: str) -> tuple[str, str]:
    match = _STAMP.match(stamp)
    assert match
    return match[1], (match[2] or "").ljust(9, "0")


def _split(pieces: Iterator[bytes]) -> Iterator[str]:
    pending = b""
    for piece in pieces:
        *whole, pending = (pending + piece).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)
    if pending:
        yield pending.decode("utf-8", "replace")


def of_rank(line: str, rank: int | None) -> str | None:
    """The line without its `[rank] `, or None when another rank printed it; the node entry's lines have none."""
    if rank is None:
        return line
    match = re.match(r"\[(\d+)\] ", line)
    if match is None:
        return line if rank == 0 else None
    return line[match.end() :] if int(match[1]) == rank else None

"""What the local run folder gets of a run whose own folder is in the cluster: its steps, and logs of its pods.

Owns the way from log lines to metrics.jsonl, for `status` and --wait. The file's format, and that each step is printed
too, are docker/workloads/metrics.py's; what the ranks themselves write is on a volume of the cluster.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from launcher.errors import RunNotFoundError
from launcher.runs import metrics as runs_metrics
from launcher.schedulers.kubernetes import api, applying, ends, hosts, kept, podlogs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.runs.record import Run
    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place
    from launcher.schedulers.kubernetes.ends import End
    from launcher.schedulers.kubernetes.hosts import Pod

_MOST = 16  # hosts whose logs are kept: each is a request
_STEP = re.compile(
    r"step +(?P<step>\d+)/(?P<max_steps>\d+)  loss (?P<loss>[-\w.]+)  lr (?P<lr>\S+)(?:  norm (?P<grad_norm>\S+))?"
    r"  (?P<tokens_per_second>[\d,]+) tokens/s  (?P<step_seconds>\S+) s/step"
)
_SAVED = re.compile(r"checkpoint (\S+) saved in")


def metrics(server: Server, at: Place, run: Run, pod: Pod | None) -> None:
    """Bring the local `metrics.jsonl` up to date from the log of `pod`, the first host's.

    A folder that ranks write into themselves, as its `logs/` shows, is left alone.
    """
    if pod is None or not run.folder.is_dir() or _own_logs(run):
        return
    kept = run.folder / "metrics.jsonl"
    known, _ = runs_metrics.read(run.folder)
    last = next((record.texts["stamp"] for record in reversed(known) if "stamp" in record.texts), "")
    records: list[dict[str, Any]] = []
    try:
        for stamp, text in podlogs.stamped(server, at, pod, since=last):
            entry = record(podlogs.of_rank(text, 0) or "")
            if entry and stamp:
                records.append({**entry, "time": hosts.seconds(stamp), "stamp": stamp})
    except (RunNotFoundError, api.Refusal):  # it has not started, or its log cannot be read now
        return
    if records and not known:
        records.insert(
            0, {"event": "start", "step": 0, "time": records[0]["time"], "stamp": records[0]["stamp"]}
        )
    if records:
        with kept.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in records)


def failure(server: Server, at: Place, run: Run, end: End) -> None:
    """Keep the end of the log of the pod that failed first, where causes are looked for, and what the kubelet says."""
    why = ends.memory(at, end.pod) if end.out_of_memory else end.of_node
    said = [f"node: {why}"] if why else []
    _keep(server, at, run, end.pod, said=said)


def before_deletion(run: Run) -> None:
    """Bring the run's steps and logs up to date while it still has pods, as far as the server answers."""
    server, at = applying.reach(run)
    with contextlib.suppress(api.Refusal):
        if applying.is_anothers(server, at):
            return
        pods = hosts.newest(at, hosts.pods(server, at, run))
        everything(server, at, run, pods)


def everything(server: Server, at: Place, run: Run, pods: Mapping[int, Pod]) -> None:
    """The run's steps, and the end of the log of each of `pods`, which are on their way out."""
    metrics(server, at, run, pods.get(0))
    for pod in list(pods.values())[:_MOST]:
        with contextlib.suppress(api.Refusal):
            _keep(server, at, run, pod)


def _keep(server: Server, at: Place, run: Run, pod: Pod, *, said: Sequence[str] = ()) -> None:
    if run.folder.is_dir() and not _own_logs(run):
        kept.write(run, hosts.index(at, pod) or 0, pod, [*podlogs.tail(server, at, pod, 2000), *said])


def _own_logs(run: Run) -> bool:
    """Whether the ranks write into this very folder: it is on the claim that the pods mount."""
    return any((run.folder / "logs").glob("rank-*.log"))


def record(line: str) -> dict[str, Any] | None:
    """A line of the log as metrics.jsonl has it, or None when it tells no step and no checkpoint."""
    saved = _SAVED.match(line)
    if saved:
        return {"event": "checkpoint", "step": int(re.sub(r"\D", "", saved[1]) or 0), "tag": saved[1]}
    match = _STEP.match(line)
    if not match:
        return None
    numbers = {k: float(v.replace(",", "")) for k, v in match.groupdict().items() if v is not None}
    return {**numbers, "step": int(numbers["step"]), "max_steps": int(numbers["max_steps"])}

"""What the local run folder gets of a run whose own folder is in the cluster: its steps, and the log of a failure.

Owns the way from log lines to metrics.jsonl, for `status` and --wait. The file's format, and that each step is printed
too, are docker/workloads/metrics.py's; what the ranks themselves write is on a volume of the cluster.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from launcher.errors import RunNotFoundError
from launcher.runs import metrics as runs_metrics
from launcher.schedulers.kubernetes import hosts, podlogs

if TYPE_CHECKING:
    from launcher.runs.record import Run
    from launcher.schedulers.kubernetes.api import Server
    from launcher.schedulers.kubernetes.applying import Place
    from launcher.schedulers.kubernetes.hosts import Pod

_STEP = re.compile(
    r"step +(?P<step>\d+)/(?P<max_steps>\d+)  loss (?P<loss>[-\w.]+)  lr (?P<lr>\S+)(?:  norm (?P<grad_norm>\S+))?"
    r"  (?P<tokens_per_second>[\d,]+) tokens/s  (?P<step_seconds>\S+) s/step"
)
_SAVED = re.compile(r"checkpoint (\S+) saved in")


def metrics(server: Server, at: Place, run: Run, pod: Pod | None) -> None:
    """Bring the local `metrics.jsonl` up to date from the log of `pod`, the first host's.

    A folder that ranks write into themselves, as its `logs/` shows, is left alone.
    """
    if pod is None or not run.folder.is_dir() or (run.folder / "logs").exists():
        return
    kept = run.folder / "metrics.jsonl"
    known, _ = runs_metrics.read(run.folder)
    last = next((record.texts["stamp"] for record in reversed(known) if "stamp" in record.texts), "")
    made: list[dict[str, Any]] = []
    try:
        for stamp, text in podlogs.stamped(server, at, pod, last, follow=False):
            found = record(podlogs.of_rank(text, 0) or "")
            if found and stamp:
                made.append({**found, "time": hosts.seconds(stamp), "stamp": stamp})
    except RunNotFoundError:  # it has not started
        return
    if made and not known:
        made.insert(0, {"event": "start", "step": 0, "time": made[0]["time"], "stamp": made[0]["stamp"]})
    if made:
        with kept.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in made)


def failure(server: Server, at: Place, run: Run, pod: Pod) -> None:
    """Keep the end of the log of `pod`, which failed first, as `logs/node-N.log`, where causes are looked for."""
    path = run.folder / "logs" / f"node-{hosts.index(at, pod)}.log"
    if run.folder.is_dir() and not path.parent.exists():
        lines = podlogs.tail(server, at, pod, 2000)
        path.parent.mkdir()
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


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

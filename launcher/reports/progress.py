"""`--wait`: one live view of a run, and a summary at its end.

Owns what is shown on stderr while a run goes on; figures come from its metrics, states from its scheduler.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import tables
from launcher.runs import diagnosis, logs
from launcher.runs.status import ENDED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.runs.record import Run
    from launcher.runs.status import Status
    from launcher.schedulers import Scheduler

_POLL = {
    "local": 0.3
}  # seconds between looks at the scheduler; others are shared, so they are asked less often
_POLL_SHARED = 3.0
_LINE_EVERY = 30.0  # seconds between progress lines where there is no terminal


def follow(scheduler: Scheduler, run: Run) -> int:
    """Show the run until it ends. Returns 0 if it succeeded, else 1. Ctrl-C leaves the run running."""
    view = _View(run)
    try:
        with _display() as display:
            now = _watch(scheduler, run, view, display)
    except KeyboardInterrupt:
        _say(
            f"\n{run.id} goes on. Come back with: python -m launcher logs {run.id} -f, or end it with: cancel"
        )
        raise
    _say(_summary(run, now, view))
    return 0 if now.state == "SUCCEEDED" else 1


def _watch(scheduler: Scheduler, run: Run, view: _View, display: _Display) -> Status:
    poll, now, asked = _POLL.get(run.scheduler, _POLL_SHARED), scheduler.status(run), time.monotonic()
    while now.state not in ENDED:
        view.read()
        display.show(view.line(now), view.fraction)
        time.sleep(0.2)
        if time.monotonic() - asked >= poll:
            now, asked = scheduler.status(run), time.monotonic()
    view.read()
    return now


@dataclass
class _View:
    """What metrics.jsonl has told so far."""

    run: Run
    offset: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def read(self) -> None:
        records, self.offset = logs.metrics(self.run.folder, self.offset)
        self.steps += [r for r in records if "event" not in r and "loss" in r]
        self.events += [r for r in records if "event" in r]

    @property
    def fraction(self) -> float:
        last = self.steps[-1] if self.steps else {}
        return last["step"] / last["max_steps"] if last.get("max_steps") else 0.0

    def line(self, now: Status) -> str:
        if not self.steps and now.state == "RUNNING":
            urls = [event["url"] for event in self.events if event["event"] == "ready"]
            return f"serving at {urls[-1]}" if urls else "running: the ranks start"
        if not self.steps or now.state == "PENDING":
            return f"{now.state.lower()}{f': {now.reason}' if now.reason else ''}"
        left = self._seconds_left()
        return tables.progress_line(self.steps[-1]) + (
            f", {units.brief(left)} left" if left is not None else ""
        )

    def _seconds_left(self) -> float | None:
        """From the pace of the last steps of this attempt."""
        recent = self.steps[-20:]
        first, last = recent[0], recent[-1]
        done = last["step"] - first["step"]
        if done <= 0 or not last.get("max_steps"):
            return None
        return float((last["max_steps"] - last["step"]) * (last["time"] - first["time"]) / done)


class _Display:
    """Without a terminal: a line when the state or its reason changes, and every half minute."""

    def __init__(self) -> None:
        self.shown, self.at = "", 0.0

    def show(self, line: str, fraction: float) -> None:
        del fraction
        word = "step" if line.startswith("step ") else line
        if word != self.shown or time.monotonic() - self.at > _LINE_EVERY:
            _say(line)
            self.shown, self.at = word, time.monotonic()


class _Bar(_Display):
    """On a terminal: a bar that stays on one line."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self.progress, self.task = progress, progress.add_task("", total=1.0)

    def show(self, line: str, fraction: float) -> None:
        self.progress.update(self.task, description=line, completed=fraction)


@contextlib.contextmanager
def _display() -> Iterator[_Display]:
    if not sys.stderr.isatty():
        yield _Display()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(24),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress)


def _trend(steps: list[dict[str, Any]]) -> tuple[str, str]:
    """How what is learnt went: the reward where there is one (a policy's loss says nothing), else the loss."""
    name = "reward" if steps[-1].get("reward") is not None else "loss"
    known = [s for s in steps if s.get(name) is not None]
    tail = known[-max(1, min(10, len(known) // 4)) :]
    first, last = known[0][name], statistics.fmean(s[name] for s in tail)
    share = f", {(first - last) / first:.0%} lower" if name == "loss" and first > last >= 0 else ""
    return name, f"{first:.4f} at step {known[0]['step']} → {last:.4f} (last {len(tail)} logged){share}"


def _summary(run: Run, now: Status, view: _View) -> str:
    if now.state != "SUCCEEDED":
        return tables.status(run, now)
    rows = [("run", f"{run.id} succeeded")]
    if view.steps:
        rows.append(_trend(view.steps))
        speeds = [s["tokens_per_second"] for s in view.steps if s.get("tokens_per_second")]
        if speeds:
            rows.append(("speed", f"{statistics.median(speeds):,.0f} tokens/s (median)"))
        rows.append(
            (
                "time",
                f"{units.brief(view.steps[-1]['time'] - view.events[0]['time'])} from start to last step",
            )
        )
    saved = [e["tag"] for e in view.events if e["event"] == "checkpoint"]
    if saved:
        rows.append(("checkpoint", f"{run.folder}/checkpoints/{saved[-1]}"))
    rows += [("folder", str(run.folder)), ("logs", f"python -m launcher logs {run.id}")]
    return "\n".join([tables.table(rows), *diagnosis.report(run, now)])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

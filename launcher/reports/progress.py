"""`--wait`: one live view of a run, and a summary at its end.

Owns what is shown on stderr while a run is running; figures come from its metrics, states from its scheduler.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.errors import SubmitError
from launcher.reports import prepared_tables, tables
from launcher.runs import diagnosis, metrics
from launcher.runs.status import ENDED, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.runs.metrics import Record
    from launcher.runs.record import Run

# Seconds between two queries of the scheduler; those that are shared are queried less often.
_POLL, _POLL_SHARED = {"local": 0.3}, 3.0
_BEAT = 0.2  # seconds between two looks at what the run has written
_PATIENCE = 600.0  # seconds without an answer
_LINE_EVERY = 30.0  # seconds between progress lines where there is no terminal


def follow(run: Run, status: Callable[[Run], Status]) -> int:
    """Show the run until `status`, of its scheduler, says that it has ended. Returns 0 if it succeeded, else 1.

    Ctrl-C leaves the run running. Raises SubmitError when the scheduler does not answer for _PATIENCE.
    """
    view = _View(run)
    try:
        with _display() as display:
            now = _watch(run, status, view, display)
    except (KeyboardInterrupt, SubmitError):
        _say(f"\n{run.id} is still running")
        _say(f"follow it: python -m launcher logs {run.id} -f")
        _say(f"end it: python -m launcher cancel {run.id}")
        raise
    _say(_summary(run, now, view))
    return 0 if now.state == "SUCCEEDED" else 1


def _watch(run: Run, status: Callable[[Run], Status], view: _View, display: _Display) -> Status:
    poll, answered, trouble = _POLL.get(run.scheduler, _POLL_SHARED), time.monotonic(), ""
    now, asked = Status("PENDING"), answered - poll
    while True:
        if time.monotonic() - asked >= poll:
            asked = time.monotonic()
            try:
                now, answered, trouble = status(run), asked, ""
            except SubmitError as error:  # a restart of the server, or a network that was interrupted
                if asked - answered > _PATIENCE:
                    raise
                trouble = f"no status, trying again: {error.problems[0].message}"
        view.read()
        if now.state in ENDED:
            return now
        display.show(trouble or view.line(now), view.fraction)
        time.sleep(_BEAT)


@dataclass
class _View:
    """What metrics.jsonl has said so far."""

    run: Run
    offset: int = 0
    records: list[Record] = field(default_factory=list)
    steps: list[Record] = field(default_factory=list)  # those of them without an event
    before: int = 0  # how many of them are of earlier attempts

    def read(self) -> None:
        new, self.offset = metrics.read(self.run.folder, self.offset)
        self.records += new
        for record in new:
            if record.event == "start":
                self.before = len(self.steps)
            elif not record.event:
                self.steps.append(record)

    def words(self, event: str, key: str) -> list[str]:
        """The texts `key` of the events that have one."""
        return [e.texts[key] for e in metrics.events(self.records, event) if key in e.texts]

    @property
    def fraction(self) -> float:
        if not self.steps:
            told = metrics.events(self.records, "tokenizing")
            return prepared_tables.share(told[-1]) if told else 0.0
        whole = self.steps[-1].figures.get("max_steps", 0.0)
        return min(self.steps[-1].step / whole, 1.0) if whole > 0 else 0.0

    def line(self, now: Status) -> str:
        if not self.steps and now.state == "RUNNING":
            if trial := self.words("trial", "text"):
                return f"trial {trial[-1]}"
            urls = self.words("ready", "url")
            started = prepared_tables.progress(self.records) or "running: ranks are starting"
            return f"serving at {urls[-1]}" if urls else started
        if not self.steps or now.state == "PENDING":
            return f"{now.state.lower()}{f': {now.reason}' if now.reason else ''}"
        left = seconds_left(self.steps[self.before :])
        return tables.progress_line(self.steps[-1]) + (
            f", {units.brief(left)} left" if left is not None else ""
        )


def seconds_left(steps: Sequence[Record]) -> float | None:
    """From the pace of the last of `steps`, which are of one attempt; None where that is not known."""
    recent = [step for step in steps[-20:] if "time" in step.figures]
    if not recent or "max_steps" not in recent[-1].figures:
        return None
    first, last = recent[0], recent[-1]
    steps_done, seconds = last.step - first.step, last.figures["time"] - first.figures["time"]
    steps_left = last.figures["max_steps"] - last.step
    if steps_done <= 0 or seconds < 0 or not 0 <= steps_left < 1e12:
        return None
    return steps_left * seconds / steps_done


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


def trend(steps: Sequence[Record]) -> tuple[str, str] | None:
    """How the reward went where there is one (the loss of a policy says nothing), else the loss; None without both."""
    name = "reward" if any("reward" in step.figures for step in steps[-1:]) else "loss"
    known = [step for step in steps if name in step.figures]
    if not known:
        return None
    tail = known[-max(1, min(10, len(known) // 4)) :]
    first, last = known[0].figures[name], statistics.fmean(step.figures[name] for step in tail)
    share = f", {(first - last) / first:.0%} lower" if name == "loss" and first > last >= 0 else ""
    text = f"{tables.number(first)} at step {known[0].step} → {tables.number(last)} (last {len(tail)} logged){share}"
    return name, text


def _summary(run: Run, now: Status, view: _View) -> str:
    if now.state != "SUCCEEDED":
        return tables.status(run, now)
    steps = view.steps
    change = trend(steps)
    rows = [("run", f"{run.id} succeeded"), *([change] if change else [])]
    if not steps and (made := prepared_tables.progress(view.records)):
        rows.append(("text", made.removeprefix("tokenized: ")))
    speeds = [speed for step in steps if (speed := step.figures.get("tokens_per_second"))]
    if speeds:
        rows.append(("speed", f"{tables.number(statistics.median(speeds), ',.0f')} tokens/s (median)"))
    times = [record.figures["time"] for record in view.records if "time" in record.figures]
    if steps and times:
        rows.append(("time", f"{units.brief(max(times) - times[0])} from start to last step"))
    saved = view.words("checkpoint", "tag")
    if saved:
        rows.append(("checkpoint", f"{run.folder}/checkpoints/{saved[-1]}"))
    rows += [("folder", str(run.folder)), ("logs", f"python -m launcher logs {run.id}")]
    return "\n".join([tables.table(rows), *diagnosis.report(run, now)])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

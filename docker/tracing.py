"""A profile of a rank that runs, by torch's own profiler or nsys: begun and ended between two of its steps.

Owns the agreement with the node entry (profiling.py): two files beside the rank's record (heartbeat.py), in JSON.

    rank-N.profile    the wish, from the node entry: {"name", "first", "steps", "file", "tool"}. The rank begins after
                      the step `first`, or where it finds the wish later. A wish that is taken away is none any more
    rank-N.profiled   the rank's answer: {"name", "from", "to", "seconds", "bytes", "cpu", "device", "operators"}: steps
                      and seconds of what was recorded, the size of `file`, self time of all operators in seconds, and
                      the first TOP of them; or {"name", "error"}

torch is the program's: what has imported none has nothing that could be profiled, so this module imports none either.
One step passes before those that are recorded, while the profiler starts (`warmup` of torch.profiler.schedule,
https://docs.pytorch.org/docs/stable/profiler.html). Whatever the profiler does, the program goes on.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import nsys

ASKED, ANSWER = ".profile", ".profiled"
TOP = 15
NO_TORCH = "its program has not imported torch"
_STEP = "ProfilerStep"  # of torch's own, around all that a step does


class _Torch:
    """torch's own profiler, begun; one step passes while it starts."""

    warmup = 1

    def __init__(self, torch: Any, steps: int) -> None:
        schedule = torch.profiler.schedule(wait=0, warmup=self.warmup, active=steps, repeat=1)
        self._profile = torch.profiler.profile(schedule=schedule)
        self._profile.start()

    def step(self) -> None:
        self._profile.step()

    def stop(self) -> None:
        self._profile.stop()

    def written(self, file: Path) -> dict[str, Any]:
        """Write the trace; returns its size, and what its operators took."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}")
        try:
            self._profile.export_chrome_trace(str(draft))
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
        return {"bytes": file.stat().st_size, **figures(self._profile.key_averages())}


class Tracer:
    """One profile of this rank, from the wish to the answer."""

    def __init__(self, asked: Path) -> None:
        self._asked = asked
        self._wish: dict[str, Any] = {}
        self._recorder: Any = None
        self._first, self._began = 0, 0.0
        self._seconds: float | None = None  # of what was recorded; None while that goes on

    def after(self, step: int) -> bool:
        """Step `step` is done. Returns whether there is nothing left to do."""
        try:
            return self._after(step)
        except Exception as error:
            with contextlib.suppress(Exception):
                self._stop()
            self._answer({"error": f"{type(error).__name__}: {error}"[:500]})
            return True

    def _after(self, step: int) -> bool:
        wish = self._read()
        if self._recorder is None:
            self._wish = wish
            if wish and step >= int(wish["first"]):
                self._begin(step)
            return not wish
        if wish.get("name") != self._wish["name"]:
            self._stop()
            return True
        last = self._first + int(wish["steps"]) - 1
        if self._seconds is None:
            self._recorder.step()
            if step < self._first:
                self._began = time.monotonic()
            if step < last:
                return False
            self._stop()
        found = self._recorder.written(Path(wish["file"]))
        if found is None:
            return False
        self._answer({"from": self._first, "to": last, "seconds": round(self._seconds or 0.0, 6), **found})
        return True

    def _begin(self, step: int) -> None:
        torch = sys.modules.get("torch")
        if torch is None:
            raise RuntimeError(NO_TORCH)
        recorder = nsys.Recorder if self._wish.get("tool") == nsys.PROGRAM else _Torch
        self._first, self._began = step + 1 + recorder.warmup, time.monotonic()
        self._recorder = recorder(torch, int(self._wish["steps"]))

    def _stop(self) -> None:
        """End the recording, if it goes on."""
        if self._recorder is not None and self._seconds is None:
            self._seconds = time.monotonic() - self._began
            self._recorder.stop()

    def _read(self) -> dict[str, Any]:
        """The wish that is there; {} without one."""
        try:
            wish: dict[str, Any] = json.loads(self._asked.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return wish

    def _answer(self, found: dict[str, Any]) -> None:
        """Leave the answer, and take away the wish unless it is a newer one."""
        answer = self._asked.with_suffix(ANSWER)
        draft = answer.with_suffix(".draft")
        try:
            draft.write_text(json.dumps({"name": self._wish.get("name"), **found}), encoding="utf-8")
            draft.replace(answer)
            if self._read().get("name") == self._wish.get("name"):
                self._asked.unlink()
        except (OSError, ValueError):  # the node entry is gone, or its disk is full
            return


def figures(averages: Any) -> dict[str, Any]:
    """Of torch's `key_averages()`: seconds of all operators on CPU and device, and the first TOP by self time.

    They are ordered by their time on the device where there is one.
    """
    rows = [
        {
            "name": one.key,
            "calls": one.count,
            "cpu": one.self_cpu_time_total / 1e6,
            "device": getattr(one, "self_device_time_total", 0) / 1e6,
        }
        for one in averages
        if not one.key.startswith(_STEP)
    ]
    cpu, device = sum(row["cpu"] for row in rows), sum(row["device"] for row in rows)
    rows.sort(key=lambda row: row["device" if device else "cpu"], reverse=True)
    return {"cpu": cpu, "device": device, "operators": rows[:TOP]}

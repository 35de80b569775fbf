"""Slurm's words, in ours: states and reasons.

Owns the words of states.json; asking Slurm is `query`'s.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.runs.status import State
    from launcher.schedulers.slurm.query import Seen

_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_STATES: dict[str, State] = {word: ours for ours, words in _TABLE["states"].items() for word in words}
_REASONS, _ENDED_BY_SLURM = _TABLE["reasons"], _TABLE["ended"]

# For a job that waits for something else than free hosts, Slurm's guess of the start means nothing.
_NO_START = ("JobHeld", "Dependency", "Partition")


def state(word: str) -> State:
    """UNKNOWN for a word that a newer Slurm may use."""
    return _STATES.get(word, "UNKNOWN")


def explain(seen: Seen, now: float | None = None) -> str:
    """Why a job is in its state, in words; empty where the state says all."""
    if seen.word == "PENDING":
        reason = _REASONS.get(seen.reason, "" if seen.reason == "None" else seen.reason)
        stuck = seen.reason.startswith(_NO_START)
        start = "" if stuck else _start(seen.start, time.time() if now is None else now)
        return "; ".join(filter(None, (reason, start)))
    if seen.word in _ENDED_BY_SLURM:
        return f"{_plain(seen.word)}; `launcher resume RUN` continues from the latest checkpoint"
    if seen.word not in _STATES:
        return seen.word
    return "" if seen.word in {"RUNNING", "COMPLETED", "FAILED", "CANCELLED"} else _plain(seen.word)


def _plain(word: str) -> str:
    return word.replace("_", " ").lower()


def _start(text: str, now: float) -> str:
    """Slurm's guess of the start, such as 2026-01-31T12:00:00; N/A until it has made one."""
    try:
        at = time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return ""
    if at < now + 60:
        return ""
    day = time.strftime("%Y-%m-%d ", time.localtime(at)) if at - now > 12 * 3600 else ""
    return f"Slurm expects it to start at {day}{time.strftime('%H:%M', time.localtime(at))}"

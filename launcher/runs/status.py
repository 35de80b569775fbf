"""The words for the state of a run, which every scheduler shares."""

from __future__ import annotations

from typing import Literal

from launcher.namedtuple import NamedTuple

State = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "UNKNOWN"]


ENDED: frozenset[State] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


class Status(NamedTuple):
    """How a run is. `reason` is the scheduler's, in words; `exit_code` is the run's own, once it ended."""

    state: State
    reason: str = ""
    exit_code: int | None = None
    hosts: tuple[str, ...] = ()
    spares: tuple[str, ...] = ()  # hosts without ranks, which take the place of one that is lost


class Selection(NamedTuple):
    """Which log lines: of one rank or of one host (default: the job's own log and rank 0), and for how long."""

    rank: int | None = None
    host: str | None = None
    follow: bool = False

"""What this machine has and lacks for running jobs, here or on a cluster from here.

Owns the report; the checks are machine.py's and ops.py's, and change nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher.doctor import machine, ops
from launcher.reports import tables

if TYPE_CHECKING:
    from launcher.doctor.looking import Check


def checks(python: str = "") -> list[Check]:
    """Every check, in the order of the report. `python`: that of a cluster's ranks, if not this one."""
    return [
        *machine.checks(),
        *ops.checks(python),
        *machine.slurm(),
        *machine.kubernetes(),
        *machine.containers(),
    ]


def report(python: str = "") -> str:
    """The checks as a table."""
    marks = {"ok": "ok", "missing": "--", "warning": "!!"}
    return tables.table((f.area, f.name, marks[f.state], f.detail) for f in checks(python))


def report_json(python: str = "") -> str:
    """The checks, machine-readable: a list of {area, name, state, detail}."""
    return tables.dump([asdict(check) for check in checks(python)])

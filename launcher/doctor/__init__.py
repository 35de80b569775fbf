"""What this machine has and lacks for running jobs, here or on a cluster from here.

Owns the report; the checks are machine.py's and ops.py's, and change nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher.doctor import machine, ops
from launcher.reports import tables

if TYPE_CHECKING:
    from launcher.doctor.looking import Check


def checks() -> list[Check]:
    """Every check, in the order of the report."""
    return [
        *machine.checks(),
        *ops.checks(),
        *machine.slurm(),
        *machine.kubernetes(),
        *machine.containers(),
    ]


def report() -> str:
    """The checks as a table."""
    marks = {"ok": "ok", "missing": "--", "warning": "!!"}
    return tables.table((f.area, f.name, marks[f.state], f.detail) for f in checks())


def report_json() -> str:
    """The checks, machine-readable: a list of {area, name, state, detail}."""
    return json.dumps([asdict(f) for f in checks()], indent=2, ensure_ascii=False)

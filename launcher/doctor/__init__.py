"""What this machine has and lacks for running jobs, here or on a cluster from here.

Owns the report; looking is machine.py's and ops.py's, and changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher.doctor import machine, ops
from launcher.reports import tables

if TYPE_CHECKING:
    from launcher.doctor.looking import Finding


def findings() -> list[Finding]:
    """Everything that was looked at, in the order of the report."""
    return [
        *machine.findings(),
        *ops.findings(),
        *machine.slurm(),
        *machine.kubernetes(),
        *machine.containers(),
    ]


def report() -> str:
    """The findings as a table."""
    marks = {"ok": "ok", "missing": "--", "warning": "!!"}
    return tables.table((f.area, f.name, marks[f.state], f.detail) for f in findings())


def report_json() -> str:
    """The findings for a program: a list of {area, name, state, detail}."""
    return json.dumps([asdict(f) for f in findings()], indent=2, ensure_ascii=False)

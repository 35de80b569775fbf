"""What a proof of a job has shown: its runs, what was compared, the verdict, and certificate.json in the run folders.

Owns the verdict and the file; what was compared is evidence.py's, the table reports/certificate.py's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from launcher import __version__, atomic, units
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.runs.evidence import Check

FILE = "certificate.json"


class Part(NamedTuple):
    """One run of a proof. `exits`: how each attempt ended, in words; `problem`: why it shows nothing, if so.

    `after`: the step after which it is compared with the undisturbed run.
    """

    name: str
    run: str
    ranks: int
    exits: list[str]
    checks: list[Check]
    after: int = 0
    problem: str = ""


class Certificate(NamedTuple):
    """What was proven of a job. `notes`: what could not be tried, and why."""

    job: str
    scheduler: str
    steps: int
    parts: list[Part]
    notes: list[str]
    made: str  # ISO 8601

    @property
    def problems(self) -> list[str]:
        """Why it is not proven; none where it is."""
        found = [f"{part.name}: {part.problem}" for part in self.parts if part.problem]
        return found + [f"{p.name}: {_why(c)}" for p in self.parts for c in p.checks if not c.holds]

    @property
    def proven(self) -> bool:
        return not self.problems and any(part.checks for part in self.parts)


def _why(check: Check) -> str:
    if check.first is None or check.values is None:
        return f"there is nothing to compare of {check.what}"
    one, other = check.values
    if isinstance(one, float) and isinstance(other, float):
        one, other = units.distinct(one, other)
    bound = "" if check.bound is None else f", more than {check.bound:g} apart"
    of = "after" if check.what in {"parameters", "optimizer"} else "of"
    return f"{check.what} {of} step {check.first}: {one} undisturbed, {other} here{bound}"


def data(certificate: Certificate) -> dict[str, Any]:
    """The same, machine-readable."""
    return {
        "proven": certificate.proven,
        "problems": certificate.problems,
        "notes": certificate.notes,
        "job": certificate.job,
        "scheduler": certificate.scheduler,
        "steps": certificate.steps,
        "made": certificate.made,
        "launcher": __version__,
        "runs": [
            {**part._asdict(), "checks": [{**check._asdict(), "holds": check.holds} for check in part.checks]}
            for part in certificate.parts
        ],
    }


def as_json(certificate: Certificate) -> str:
    return json.dumps(data(certificate), indent=2, ensure_ascii=False)


def keep(certificate: Certificate, runs: Path) -> list[Path]:
    """Write it into the folder of each of its runs; returns the files. Raises OSError."""
    files = [runs / part.run / FILE for part in certificate.parts]
    for file in files:
        atomic.write(file, f"{as_json(certificate)}\n".encode())
    return files

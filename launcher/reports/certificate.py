"""prove: what a proof has shown, as a table for a person.

Owns the words; the verdict and the machine-readable form are runs/certificate.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.reports import tables

if TYPE_CHECKING:
    from launcher.runs.certificate import Certificate
    from launcher.runs.evidence import Check


def text(certificate: Certificate) -> str:
    """For a person: a line for each run and for each comparison, and the verdict."""
    runs = [
        (part.name, part.run, str(part.ranks), "; ".join(part.exits) or "-") for part in certificate.parts
    ]
    checks = [(part.name, c.what, str(c.steps), _found(c)) for part in certificate.parts for c in part.checks]
    lines = [tables.table(runs, ("RUN", "ID", "RANKS", "ENDED"))]
    if checks:
        lines += ["", tables.table(checks, ("RUN", "WHAT", "COMPARED", "WITH THE UNDISTURBED RUN"))]
    lines += ["", *(f"note: {note}" for note in certificate.notes)]
    verdict = "proven" if certificate.proven else "not proven"
    lines += [f"{verdict}: {certificate.job}, {certificate.steps} steps, on {certificate.scheduler}"]
    return "\n".join([*lines, *(f"  {problem}" for problem in certificate.problems)])


def _found(check: Check) -> str:
    if not check.steps:
        return "nothing to compare"
    if check.first is not None:
        return f"differs from step {check.first} on"
    return "equal" if check.bound is None else f"within {check.bound:g}: at most {check.largest:.1e} apart"

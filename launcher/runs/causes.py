"""Known causes of a failure: what a log says, what it means, and what to do.

Owns reading the table, causes.json; which logs are read is `diagnosis`'s. A new cause is one entry there and one real
log line in tests/launcher/runs/test_causes.py. The table's order is the answer's: the more exact comes first.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launcher import exit_codes, units

if TYPE_CHECKING:
    from collections.abc import Iterable


class Signature(NamedTuple):
    """`patterns` find the line that is the evidence. `fast`: it is a fault on a fast fabric only.

    `kubernetes`: the fix there, where that is something else than `fix`.
    """

    name: str
    patterns: list[str]
    cause: str
    fix: str
    fast: bool = False
    kubernetes: str = ""


class Cause(NamedTuple):
    """A known cause with its evidence: the line that shows it, or the exit code."""

    name: str
    evidence: str
    cause: str
    fix: str


_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
SIGNATURES = [Signature(name, **entry) for name, entry in _TABLE.items()]


def search(lines: Iterable[str], fast: bool, scheduler: str = "") -> list[Cause]:
    """The causes that `lines` show, in the table's order, each with its first line and what to do on `scheduler`.

    `fast`: the fabric is not TCP.
    """
    signatures = [(s, re.compile("|".join(s.patterns))) for s in SIGNATURES if fast or not s.fast]
    causes: dict[str, Cause] = {}
    for line in lines:
        for signature, pattern in signatures:
            if signature.name not in causes and pattern.search(line):
                evidence = units.printable(line.strip()[:300])
                fix = _advice(signature.fix, signature.kubernetes, scheduler)
                causes[signature.name] = Cause(signature.name, evidence, signature.cause, fix)
    return [causes[s.name] for s in SIGNATURES if s.name in causes]


def by_exit_code(code: int | None, scheduler: str = "") -> Cause | None:
    """What the exit code alone says, and what to do on `scheduler`."""
    known = exit_codes.BY_CODE.get(code) if code else None
    if known is None:
        return None
    fix = _advice(known.advice, known.kubernetes, scheduler)
    return Cause(f"exit code {code}", f"exit code {code}", known.meaning, fix)


def _advice(anywhere: str, on_kubernetes: str, scheduler: str) -> str:
    return on_kubernetes if on_kubernetes and scheduler == "kubernetes" else anywhere

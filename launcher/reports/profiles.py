"""A profile for a person: where the traces lie, and of each rank the operators that took the most time.

Owns the text; the document is docker/profiling.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VIEWER = "https://ui.perfetto.dev opens them; so does chrome://tracing"
OF_NSYS = "Nsight Systems opens them (nsys-ui), `nsys stats FILE` says what took the time"
_MOST = 10  # operators of a rank; profile.json has more
_LONGEST = 60


def text(found: dict[str, Any], folder: Path) -> str:
    """The traces in `folder`, each with its table."""
    by_nsys = any(rank.get("file", "").endswith(".nsys-rep") for rank in found["ranks"])
    return "\n".join([*_lines(found, folder), "", OF_NSYS if by_nsys else VIEWER])


def _lines(found: dict[str, Any], folder: Path) -> Iterator[str]:
    for number, rank in enumerate(one for one in found["ranks"] if "error" not in one):
        if number:
            yield ""
        yield units.printable(
            f"rank {rank['rank']} on {rank['host']}: steps {rank['from']} to {rank['to']} in "
            f"{rank['seconds']:.3g} s, {units.gigabytes(rank['bytes'])}: {folder / rank['file']}"
        )
        if rank["operators"]:
            yield tables.table(*_operators(rank))


def _operators(rank: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Rows and head: self time, and its share of all operators'."""
    kinds = [("cpu", "CPU"), *([("device", "GPU")] if rank["device"] else [])]
    head = ["operator", "calls", *(word for _, name in kinds for word in (f"{name} s", "share"))]
    rows = []
    for one in rank["operators"][:_MOST]:
        name = one["name"] if len(one["name"]) <= _LONGEST else f"{one['name'][: _LONGEST - 1]}…"
        times = [
            (f"{one[kind]:.4f}", f"{one[kind] / rank[kind]:.0%}" if rank[kind] else "-") for kind, _ in kinds
        ]
        rows.append([name, str(one["calls"]), *(word for pair in times for word in pair)])
    return rows, head

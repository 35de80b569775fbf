"""What ranks are in, for a person: the verdict, and each stack once with the ranks that have it.

Owns the text; the document is docker/hang.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 12  # frames of a stack; verdict.json and rank-N.txt have all


def text(found: dict[str, Any]) -> str:
    """The verdict, then every different stack, innermost frame first."""
    return "\n".join(units.printable(line) for line in _lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield found["verdict"]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for rank in found["ranks"]:
        frames = tuple(f"{f[0]}:{f[1]} {f[2]}" for f in (rank["threads"] or [[]])[0])
        groups.setdefault((frames, rank["state"], rank["why"]), []).append(rank)
    for (frames, state, why), ranks in groups.items():
        yield ""
        named = ", ".join(f"{r['rank']} on {r['host']}" for r in ranks[:8])
        more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
        kernel = f", in the kernel {ranks[0]['wchan']}" if ranks[0]["wchan"] else ""
        steps = sorted({r["step"] for r in ranks if r["step"] is not None})
        at = f", step {steps[0]}" if len(steps) == 1 else ""
        yield f"rank {named}{more}: state {state or '-'}{kernel}{at}"
        yield from (f"  {frame}" for frame in frames[:_MOST])
        if why:
            yield f"  no stack: {why}"
    if found["absent"]:
        yield ""
        yield f"no answer from {', '.join(found['absent'])}"

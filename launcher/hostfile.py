"""DeepSpeed's hostfile: `host slots=N` lines.

Owns the text; where hosts come from is the scheduler's. The grammar is DeepSpeed's own,
https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/launcher/runner.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def text(hosts: Iterable[str], slots: int) -> str:
    """The hostfile of `hosts` with `slots` ranks each. Raises SpecError on a bad name, a duplicate, or none."""
    names = list(hosts)
    if not names:
        raise SpecError("no hosts", hint="give a host list such as node[1-4], or run it inside an allocation")
    wrong = [n for n in names if not _HOST.fullmatch(n)]
    if wrong:
        raise SpecError(*(f"{n!r} is not a host name" for n in wrong))
    twice = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise SpecError(f"host {twice[0]!r} is listed twice", hint="DeepSpeed refuses duplicate hosts")
    if slots < 1:
        raise SpecError(f"slots must be at least 1, not {slots}")
    return "".join(f"{name} slots={slots}\n" for name in names)


def expand(hostlist: str) -> list[str]:
    """Slurm's compact list, `gpu[01-03,7],login`, as names in its order. Raises SpecError when it has bad brackets."""
    return [name for part in _split(hostlist) for name in _expand_one(part)]


def _split(hostlist: str) -> Iterator[str]:
    """The parts between commas and blanks that stand outside brackets."""
    depth, start = 0, 0
    for i, char in enumerate(hostlist + ","):
        depth += (char == "[") - (char == "]")
        if depth < 0 or (char == "[" and depth > 1):
            raise SpecError(f"{hostlist!r} has unbalanced brackets", hint="write node[1-4,7]")
        if depth == 0 and char in ", \n\t":
            if i > start:
                yield hostlist[start:i]
            start = i + 1
    if depth:
        raise SpecError(f"{hostlist!r} has unbalanced brackets", hint="write node[1-4,7]")


def _expand_one(part: str) -> Iterator[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        yield part
        return
    inside, _, tail = rest.partition("]")
    for piece in inside.split(","):
        first, dash, last = piece.partition("-")
        last = last if dash else first
        if not (first.isdigit() and last.isdigit()) or int(first) > int(last):
            raise SpecError(f"{piece!r} in {part!r} is not a range of numbers", hint="write node[1-4,7]")
        for number in range(int(first), int(last) + 1):
            for end in _expand_one(tail):
                yield f"{head}{number:0{len(first)}}{end}"

"""DeepSpeed's hostfile: `host slots=N` lines.

Owns the text; where hosts come from is the scheduler's. The grammar is DeepSpeed's own,
https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/launcher/runner.py.
"""

from __future__ import annotations

import collections
import itertools
import re
from typing import TYPE_CHECKING

from launcher.errors import Problem, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MOST = 65_536  # hosts of one list: a slip such as node[1-10000000000] must not fill the memory
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def text(hosts: Iterable[str], slots: int) -> str:
    """The hostfile of `hosts` with `slots` ranks each. Raises SpecError on a bad name, a duplicate, or none."""
    names = list(hosts)
    if not names:
        raise SpecError("no hosts", hint="give a host list such as node[1-4], or run it inside an allocation")
    wrong = [n for n in names if not _HOST.fullmatch(n)]
    if wrong:
        hint = "a host name has letters, digits, '-', '_' and '.'"
        raise SpecError(*(Problem(f"{n!r} is not a host name", hint) for n in wrong))
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        raise SpecError(f"host {twice[0]!r} is listed twice", hint="DeepSpeed refuses duplicate hosts")
    if slots < 1:
        raise SpecError(f"slots must be at least 1, not {slots}", hint="it is the number of ranks per host")
    return "".join(f"{name} slots={slots}\n" for name in names)


def expand(hostlist: str) -> list[str]:
    """Slurm's compact list, `gpu[01-03,7],login`, as names in its order. Raises SpecError when it has bad brackets."""
    names = (name for part in _split(hostlist) for name in _expand_one(part))
    made = list(itertools.islice(names, _MOST + 1))
    if len(made) > _MOST:
        raise SpecError(f"{hostlist!r} names more than {_MOST} hosts", hint="check its ranges")
    return made


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
    texts, ranges = _BRACKETS.split(part)[::2], _BRACKETS.findall(part)
    if not ranges:
        yield part
        return
    choices = [list(itertools.islice(_numbers(piece, part), _MOST + 1)) for piece in ranges]
    # The order of `scontrol show hostnames`, which is that of node indices (measured with Slurm 24.11): the last
    # bracket turns fastest, then the first, the second and so on.
    *outer, last = choices
    for *slow, fast in itertools.product(*reversed(outer), last):
        numbers = [*reversed(slow), fast, ""]
        yield "".join(text + number for text, number in zip(texts, numbers, strict=True))


def _numbers(ranges: str, part: str) -> Iterator[str]:
    for piece in ranges.split(","):
        match = _RANGE.fullmatch(piece)
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if int(first) > int(last):
            raise SpecError(f"{piece!r} in {part!r} is not a range of numbers", hint="write node[1-4,7]")
        yield from (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))

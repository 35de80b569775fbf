"""DeepSpeed's hostfile: `host slots=N` lines.

Owns the text; where hosts come from is the scheduler's. The grammar is DeepSpeed's own,
https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/launcher/runner.py.
"""

from __future__ import annotations

import collections
import itertools
import math
import re
from typing import TYPE_CHECKING

from launcher.errors import Problem, SpecError, shown
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MOST = 65_536  # hosts of one list: a slip such as node[1-10000000000] must not fill the memory
_MOST_SLOTS = 9999  # of a host, as the node entry reads them (docker/hostfile.py)
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_NAMED = 10  # wrong names that are told one by one: a range may have thousands
_HOST = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


class _Numbers(NamedTuple):
    """`08-12`: the numbers, each padded to the digits of the first."""

    numbers: range
    digits: int

    def written(self) -> Iterator[str]:
        return (f"{number:0{self.digits}}" for number in self.numbers)


def text(hosts: Iterable[str], slots: int) -> str:
    """The hostfile of `hosts` with `slots` ranks each. Raises SpecError on a bad name, a duplicate, or none."""
    names = list(hosts)
    if not names:
        raise SpecError("no hosts", hint="give a host list such as node[1-4], or run it inside an allocation")
    listed = collections.Counter(names)
    _refuse(
        [f"{shown(n)} is not a host name" for n in listed if not _HOST.fullmatch(n)],
        "a host name has letters, digits, '-', '_' and '.'",
    )
    _refuse(
        [f"host {shown(n)} is listed twice" for n, times in listed.items() if times > 1],
        "DeepSpeed refuses duplicate hosts",
    )
    if not 1 <= slots <= _MOST_SLOTS:
        what = f"slots must be at {'least 1' if slots < 1 else f'most {_MOST_SLOTS}'}, not {shown(slots)}"
        raise SpecError(what, hint="it is the number of ranks per host")
    return "".join(f"{name} slots={slots}\n" for name in names)


def _refuse(found: list[str], hint: str) -> None:
    """Raise SpecError with the first of what was found, and how many there are beside."""
    more = [f"and {len(found) - _NAMED:,} more"] if len(found) > _NAMED else []
    if found:
        raise SpecError(*(Problem(what, hint) for what in found[:_NAMED]), *more)


def expand(hostlist: str) -> list[str]:
    """Slurm's compact list, `gpu[01-03,7],login`, as names in its order.

    Raises SpecError when it has bad brackets, or names more hosts than any cluster has.
    """
    names: list[str] = []
    for part in _split(hostlist):
        texts = _BRACKETS.split(part)[::2]
        choices = [_numbers(ranges, part) for ranges in _BRACKETS.findall(part)]
        # counted before any is made: brackets multiply
        if len(names) + math.prod(map(_count, choices)) > _MOST:
            raise SpecError(f"{shown(hostlist)} names more than {_MOST} hosts", hint="check its ranges")
        names += _combined(texts, choices)
    return names


def _split(hostlist: str) -> Iterator[str]:
    """The parts between commas and blanks that stand outside brackets."""
    depth, start = 0, 0
    for i, char in enumerate(hostlist + ","):
        depth += (char == "[") - (char == "]")
        if depth < 0 or (char == "[" and depth > 1):
            raise SpecError(f"{shown(hostlist)} has unbalanced brackets", hint="write node[1-4,7]")
        if depth == 0 and char in ", \n\t":
            if i > start:
                yield hostlist[start:i]
            start = i + 1
    if depth:
        raise SpecError(f"{shown(hostlist)} has unbalanced brackets", hint="write node[1-4,7]")


def _combined(texts: list[str], choices: list[list[_Numbers]]) -> Iterator[str]:
    if not choices:
        yield texts[0]
        return
    # The order of `scontrol show hostnames`, which is that of node indices (measured with Slurm 24.11): the last
    # bracket turns fastest, then the first, the second and so on.
    *outer, last = [[number for ranged in choice for number in ranged.written()] for choice in choices]
    for *slow, fast in itertools.product(*reversed(outer), last):
        numbers = [*reversed(slow), fast, ""]
        yield "".join(text + number for text, number in zip(texts, numbers, strict=True))


def _count(choice: list[_Numbers]) -> int:
    return sum(len(ranged.numbers) for ranged in choice)


def _numbers(ranges: str, part: str) -> list[_Numbers]:
    parsed = []
    for piece in ranges.split(","):
        match = _RANGE.fullmatch(piece)
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if int(first) > int(last):
            what = f"{shown(piece)} in {shown(part)} is not a range of numbers"
            raise SpecError(what, hint="write node[1-4,7]")
        parsed.append(_Numbers(range(int(first), int(last) + 1), len(first)))
    return parsed

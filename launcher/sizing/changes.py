"""The smallest single changes with which a job fits that does not.

Owns the search for them; whether a candidate fits is ladder.py's, and how a change is written in a job planning's.

    changes.smallest(architecture, machine, request, candidate) -> [Change("micro", 2, candidate), ...]
    changes.min_hosts(architecture, machine, request) -> the fewest hosts
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.sizing import ladder, memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.sizing.architecture import Architecture
    from launcher.sizing.ladder import Candidate, Machine, Request

# Bytes of pinned tensors that may still be rounded up: small ones, which are allocated anew all the time.
EXACT = 64 * memory.MIB
MOST_HOSTS = 4096


class Change(NamedTuple):
    """One change that makes the job fit: `what`: micro, hosts, preset, checkpointing, pinning or copies."""

    what: str
    value: int | str | bool
    candidate: Candidate


def smallest(
    model: Architecture, machine: Machine, request: Request, candidate: Candidate | None = None
) -> list[Change]:
    """The smallest single changes that make a job fit which does not, least intrusive first.

    `candidate` is the one that the job asks for; without it the search is free and only the micro batch and the
    number of hosts can change.
    """
    changes = [
        *_exact_pinning(model, machine, request, candidate),
        *_waiting(model, machine, request, candidate),
    ]
    if candidate is not None:
        other = candidate._replace(checkpointing=True)
        if not candidate.checkpointing and ladder.evaluate(model, machine, request, other).fits:
            changes.append(Change("checkpointing", True, other))
        free = ladder.search(model, machine, request).chosen
        if free is not None and free.candidate.preset != candidate.preset:
            changes.append(Change("preset", free.candidate.preset, free.candidate))
    changes += _smaller_micro(model, machine, request, candidate)
    hosts = min_hosts(model, machine, request, candidate)
    if hosts is not None and hosts > machine.hosts:
        more = machine._replace(hosts=hosts)
        chosen = ladder.search(model, more, request.on(more.world)).chosen
        last = chosen.candidate if chosen else ladder.CANDIDATES[-1]
        changes.append(Change("hosts", hosts, candidate or last))
    return changes


def min_hosts(
    model: Architecture, machine: Machine, request: Request, candidate: Candidate | None = None
) -> int | None:
    """The fewest hosts among which the step divides and on which `candidate` (or any) fits; None: MOST_HOSTS do not."""

    def fits(hosts: int) -> bool:
        there = machine._replace(hosts=hosts)
        asked = request.on(there.world)
        if candidate is not None:
            return ladder.evaluate(model, there, asked, candidate).fits
        return any(e.fits for e in ladder.ordered(model, there, asked))

    hosts = [n for n in range(1, MOST_HOSTS + 1) if request.divides(n * machine.slots)]
    index = bisect.bisect_left(hosts, True, key=fits)  # more hosts never need more memory each
    return hosts[index] if index < len(hosts) else None


def _exact_pinning(
    model: Architecture, machine: Machine, request: Request, candidate: Candidate | None
) -> Iterator[Change]:
    """Pinned memory that is not rounded up to a power of two, where that alone is what a host lacks."""
    exact = request._replace(pinned_round=EXACT)
    if candidate is None:
        chosen = ladder.search(model, machine, exact).chosen
        candidate = chosen.candidate if chosen else None
    if candidate and request.pinned_round is None and ladder.evaluate(model, machine, exact, candidate).fits:
        yield Change("pinning", EXACT // memory.MIB, candidate)


def _waiting(
    model: Architecture, machine: Machine, request: Request, candidate: Candidate | None
) -> Iterator[Change]:
    """Checkpoints for which training waits, where it is their copies alone that a host lacks the memory for."""
    if not request.copies:
        return
    plain = request._replace(copies=False)
    if candidate is None:
        chosen = ladder.search(model, machine, plain).chosen
        candidate = chosen.candidate if chosen else None
    if candidate and ladder.evaluate(model, machine, plain, candidate).fits:
        yield Change("copies", False, candidate)


def _smaller_micro(
    model: Architecture, machine: Machine, request: Request, candidate: Candidate | None
) -> list[Change]:
    """The candidate that needs the smallest change, with its largest micro batch that divides the step's samples."""
    evaluations = [] if candidate else ladder.ordered(model, machine, request)
    choices = [candidate] if candidate else [e.candidate for e in evaluations]
    sizes = {c: ladder.largest_micro(model, machine, request, c) for c in choices}
    best = max(choices, key=lambda c: min(sizes[c], request.micro), default=None)
    if best is None or sizes[best] >= request.micro:
        return []
    divides = (m for m in range(sizes[best], 0, -1) if request._replace(micro=m).divides(machine.world))
    return [Change("micro", m, best) for m in divides][:1]

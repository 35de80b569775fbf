"""What a run tells of its computation, compared with another's: samples, losses, parameters, optimizer states.

Owns reading (metrics.jsonl as docker/workloads/evidence.py has it, else the losses that a program prints) and the
comparison, which is pure: bit for bit, or within a bound where the number of ranks differs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.runs import metrics, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# "step 12 loss 3.21", "Step: 12/400, train loss = 3.21e-1", {'step': 12, 'loss': 3.21}
_PRINTED = re.compile(
    r"\bstep\W{0,3}([0-9]{1,12})\b.{0,200}?\bloss\W{0,4}([-+]?[0-9][0-9.]*(?:e[-+]?[0-9]+)?)", re.I | re.A
)
_NORMS = {
    "parameters": ("parameters_norm",),
    "optimizer": ("exp_avg_norm", "exp_avg_sq_norm"),
}
_MOST = 1 << 26  # bytes of a log


class Told(NamedTuple):
    """A value of a step; of one that is done again there are several."""

    step: int
    value: str | float


class Evidence(NamedTuple):
    """What a run has told, in the order written; `told`: (what, its values)."""

    losses: list[Told]
    samples: list[Told]
    states: dict[str, list[Told]]  # digests by what they are of, and norms by their names

    def of(self, what: str) -> list[Told]:
        known = {"losses": self.losses, "samples": self.samples}
        return known[what] if what in known else self.states.get(what, [])

    @property
    def last(self) -> int:
        return max((told.step for told in self.losses), default=0)


class Check(NamedTuple):
    """One comparison. `steps`: how many values; `first`: the first step that differs, with both values.

    `largest`: of the relative differences; `bound`: what it may be, None where values must be equal bit for bit.
    """

    what: str
    steps: int
    first: int | None = None
    values: tuple[str | float, str | float] | None = None
    largest: float | None = None
    bound: float | None = None

    @property
    def holds(self) -> bool:
        return self.steps > 0 and self.first is None


def read(folder: Path) -> Evidence:
    """What the run in `folder` has told until now."""
    records = metrics.read(folder)[0]
    steps = [record for record in metrics.steps(records) if "loss" in record.figures]
    losses: list[Told] = [Told(record.step, record.figures["loss"]) for record in steps] or list(
        _printed(folder)
    )
    samples = [Told(record.step, record.texts["samples"]) for record in steps if "samples" in record.texts]
    states: dict[str, list[Told]] = {}
    for record in metrics.events(records, "state"):
        figures = {name: value for name, value in record.figures.items() if name.endswith("_norm")}
        digests = {name: record.texts[name] for name in _NORMS if name in record.texts}
        told: dict[str, str | float] = {**digests, **figures}
        for name, value in told.items():
            states.setdefault(name, []).append(Told(record.step, value))
    return Evidence(losses, samples, states)


def _printed(folder: Path) -> Iterator[Told]:
    """The losses that a program prints: those of the first rank that prints any."""
    for path in sorted((folder / "logs").glob("rank-*.log"), key=_rank):
        try:
            with reading.opened(path) as file:
                text = file.read(_MOST).decode("utf-8", "replace")
        except OSError:
            continue
        if found := [Told(int(match[1]), float(match[2])) for match in _PRINTED.finditer(text)]:
            yield from found
            return


def _rank(path: Path) -> int:
    number = path.stem.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdecimal() else 0


def compare(whole: Evidence, other: Evidence, bound: float | None = None, after: int = 0) -> list[Check]:
    """What `whole` has told of the steps after `after`, against all that `other` has, bit for bit or within `bound`.

    Of states that of step `after` counts too: the other run may have been loaded there. What `whole` has not told is
    left out; a step that `other` lacks is one that differs.
    """
    checks = [_equal("samples", whole, other, after)] if whole.samples else []
    if bound is None:
        names = ("losses", *(name for name in _NORMS if whole.of(name)))
        return [*checks, *(_equal(name, whole, other, after) for name in names)]
    checks.append(_within("losses", ("losses",), (whole, other), (bound, after)))
    for name, norms in _NORMS.items():
        if whole.of(norms[0]):
            checks.append(_within(name, norms, (whole, other), (bound, after)))
    return checks


def _pairs(
    what: str, whole: Evidence, other: Evidence, after: int
) -> Iterator[tuple[int, str | float, str | float | None]]:
    """(step, value of the one, of the other) for each that the other has, and None where it lacks a step."""
    steps = what in {"losses", "samples"}
    known = {told.step: told.value for told in whole.of(what) if told.step > after - (not steps)}
    there = {told.step for told in other.of(what)}
    for told in sorted(other.of(what), key=lambda told: told.step):
        if told.step in known:
            yield told.step, known[told.step], told.value
    if steps:
        for step in sorted(known.keys() - there):
            yield step, known[step], None


def _equal(what: str, whole: Evidence, other: Evidence, after: int) -> Check:
    pairs = list(_pairs(what, whole, other, after))
    differs = sorted((step, one, two) for step, one, two in pairs if one != two)
    if not differs:
        return Check(what, len(pairs))
    step, one, two = differs[0]
    return Check(what, len(pairs), step, (one, "nothing" if two is None else two))


def _within(
    what: str, names: Sequence[str], runs: tuple[Evidence, Evidence], limits: tuple[float, int]
) -> Check:
    bound, after = limits
    pairs = sorted((pair for name in names for pair in _pairs(name, *runs, after)), key=lambda pair: pair[0])
    apart = [1.0 if two is None else _apart(float(one), float(two)) for _, one, two in pairs]
    check = Check(what, len(pairs), largest=max(apart, default=None), bound=bound)
    for (step, one, two), difference in zip(pairs, apart, strict=True):
        if difference > bound:
            return check._replace(first=step, values=(one, "nothing" if two is None else two))
    return check


def _apart(one: float, two: float) -> float:
    return abs(one - two) / max(abs(one), abs(two), 1e-30)

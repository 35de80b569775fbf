"""Where the allocated time of a run went: hosts × slots × time, split into shares that add up to it exactly.

Spares are hosts without ranks: all of their time is a share of its own.

Owns the shares and the arithmetic. What is known of the time is events.jsonl's (docker/events.py: when hosts were
allocated, met and left) and metrics.jsonl's (docker/workloads/metrics.py: when training began, steps, evaluations and
checkpoints with their seconds). Goodput is the share of steps whose work was kept, without the first of each attempt,
as Google's ml-goodput-measurement counts it (https://github.com/AI-Hypercomputer/ml-goodput-measurement).

    hours.account(hours.attempts(events, records, now)) -> {"waiting": …, "steps": …}  slot-milliseconds
"""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from launcher import workloads
from launcher.errors import LauncherError
from launcher.runs import metrics
from launcher.runs import record as runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from launcher.runs.metrics import Record

# Share → what a person reads, in the order of a run's life.
SHARES = {
    "waiting": "waiting for hosts",
    "preflight": "preflight",
    "loading": "start and load",
    "first_step": "first step, compiling",
    "steps": "steps",
    "evaluation": "evaluation",
    "checkpoints": "checkpoints",
    "redone": "steps done again after a failure",
    "stalls": "stalls",
    "program": "a program that tells no steps",
    "ending": "ending",
    "spares": "hosts held idle as spares",
}
# Event → the share that begins with it.
_BEGINS = {
    "allocated": "waiting",
    "preflight": "preflight",
    "met": "loading",
    "failed": "ending",
    "saved": "ending",
    "ended": "ending",
}
_OVER = ("failed", "saved", "ended")
# Event of metrics.jsonl → the share of the `seconds` before it.
_TOOK = {
    "eval": "evaluation",
    **dict.fromkeys(("checkpoint", "own_disk", "waited"), "checkpoints"),
}
_ROUND = ("failed", "ended")  # what a round of preflight tells at its end
_MOST = 1e6  # slots
_DAY = 86_400.0  # seconds, more than the clocks of two hosts and a time zone differ by


class Span(NamedTuple):
    """From `start` to `end`, milliseconds of Unix time, something else than the phase around it."""

    start: int
    end: int
    share: str


class Attempt(NamedTuple):
    """One time that the run had its hosts, from `start` to `end`, in milliseconds of Unix time.

    `ended` is whether its end was told: else it still runs, or was cut off after the last that is known of it.
    """

    start: int
    end: int
    slots: int
    ended: bool
    events: tuple[Record, ...]
    records: tuple[Record, ...]
    spares: int = 0  # slots of hosts that stayed idle


def read(folder: Path) -> tuple[list[Record], list[Record]]:
    """(events, records) of the run in `folder`, without what a wrong clock told: a day before its submission."""
    told, measured = metrics.read(folder, file=metrics.EVENTS)[0], metrics.read(folder)[0]
    if _tells_steps(folder):  # until it does, it loads: an attempt may end before
        told = [event for event in told if event.event != "started"]
    try:
        earliest = runs.read(folder / runs.RECORD).submitted - _DAY
    except LauncherError:  # it was copied without its record
        return told, measured
    first, second = (
        [line for line in lines if line.figures.get("time", earliest) >= earliest]
        for lines in (told, measured)
    )
    return first, second


def _tells_steps(folder: Path) -> bool:
    """Whether the run is of one of our workloads that work in steps; of a user's own it is not known."""
    try:
        workload = runs.read_json(folder / "plan.json")["job"].get("workload", "pretrain")
        return workload in workloads.names() and workloads.steps(workload)
    except (LauncherError, KeyError, TypeError, AttributeError):
        return False


def attempts(events: Sequence[Record], records: Sequence[Record], now: float | None = None) -> list[Attempt]:
    """The run's attempts in order; `now`, Unix time, is the end of one that still runs, None where none does.

    Records may be broken: an attempt without a time is none, and what was written before it does not count.
    """
    measured = sorted((r for r in records if "time" in r.figures), key=_at)
    told = [e for e in events if "time" in e.figures]
    places, told = _starts(told)
    if not places:
        told = _untold(measured)
        places = list(range(len(told)))
    begins = [_at(told[place]) for place in places]
    found = []
    for number, place in enumerate(places):
        last = number + 1 == len(places)
        own = _own(told[place : None if last else places[number + 1]])
        lines = measured[bisect_left(measured, begins[number], key=_at) :]
        if not last:
            lines = lines[: bisect_left(lines, begins[number + 1], key=_at)]
        ends = [_at(event) for event in own if event.event == "ended"]
        known = [begins[number], *map(_at, own), *map(_at, lines)]
        if last and not ends and now is not None:
            known.append(_milliseconds(now))
        end = max(known if not ends else [begins[number], ends[-1]])
        found.append(
            Attempt(
                start=begins[number],
                end=end if last else min(end, max(begins[number], begins[number + 1])),
                slots=int(min(max(own[0].figures.get("slots", 1.0), 1.0), _MOST)),
                ended=bool(ends),
                events=tuple(own),
                records=tuple(lines),
                spares=int(min(max(own[0].figures.get("spare_slots", 0.0), 0.0), _MOST)),
            )
        )
    return found


def _starts(told: list[Record]) -> tuple[list[int], list[Record]]:
    """(places where an attempt begins, the events): hosts that are checked in rounds are allocated once.

    With spares, preflight begins anew where a host was unfit (templates/slurm/spares.sh.j2): each round tells the same
    start of the same attempt again, and how it ended.
    """
    places: list[int] = []
    kept: list[Record] = []
    for event in told:
        if event.event == "allocated":
            if places and _same_start(kept[places[-1]], event):
                kept = [*kept[: places[-1]], *(e for e in kept[places[-1] :] if e.event not in _ROUND)]
                continue
            places.append(len(kept))
        kept.append(event)
    return places, kept


def _same_start(one: Record, other: Record) -> bool:
    return "attempt" in one.texts and (one.texts["attempt"], _at(one)) == (
        other.texts.get("attempt"),
        _at(other),
    )


def _own(told: list[Record]) -> list[Record]:
    """Without what a host that was cut off told of an earlier attempt, after this one had begun."""
    attempt = told[0].texts.get("attempt")
    return [event for event in told if event.texts.get("attempt", attempt) == attempt]


def account(of_run: Sequence[Attempt]) -> dict[str, int]:
    """Share → slot-milliseconds. All shares are there, and add up to `allocated` exactly."""
    total = dict.fromkeys(SHARES, 0)
    for number, attempt in enumerate(of_run):
        for start, end, share in timeline(attempt, resumed(of_run[number + 1 :])):
            total[share] += (end - start) * attempt.slots
        total["spares"] += (attempt.end - attempt.start) * attempt.spares
    return total


def allocated(of_run: Iterable[Attempt]) -> int:
    """Slot-milliseconds that the run had."""
    return sum((attempt.end - attempt.start) * (attempt.slots + attempt.spares) for attempt in of_run)


def timeline(attempt: Attempt, resumed_after: int | None = None) -> Iterator[Span]:
    """The attempt from its start to its end, without a gap. `resumed_after`: the step that a later one did."""
    marks = sorted(_marks(attempt), key=itemgetter(0))
    spans = sorted(_spans(attempt), reverse=True)
    lost = _lost(attempt, resumed_after)
    for number, (at, share) in enumerate(marks):
        end = marks[number + 1][0] if number + 1 < len(marks) else attempt.end
        at, end = (min(max(moment, attempt.start), attempt.end) for moment in (at, end))
        for piece in _cut(Span(at, end, share), spans):
            yield from _split(piece, lost) if piece.share == "steps" else (piece,)


def _cut(phase: Span, spans: list[Span]) -> Iterator[Span]:
    """`phase` with `spans` cut out of it; they are sorted, the earliest last, and used up."""
    at = phase.start
    while spans and spans[-1].start < phase.end:
        span = spans.pop()
        start, end = max(at, span.start), min(span.end, phase.end)
        if end <= start:
            continue
        if start > at:
            yield Span(at, start, phase.share)
        yield Span(start, end, span.share)
        at = end
        if span.end > phase.end:  # the rest is of the next phase
            spans.append(span._replace(start=phase.end))
            break
    if at < phase.end:
        yield Span(at, phase.end, phase.share)


def _split(steps: Span, lost: int | None) -> Iterator[Span]:
    """Steps before the moment `lost`, and those after it, which are done again."""
    if lost is None or lost >= steps.end:
        yield steps
    elif lost <= steps.start:
        yield steps._replace(share="redone")
    else:
        yield steps._replace(end=lost)
        yield Span(lost, steps.end, "redone")


def _marks(attempt: Attempt) -> Iterator[tuple[int, str]]:
    """(moment, the share that begins there)."""
    yield attempt.start, "loading"
    for event in attempt.events:
        if event.event in _BEGINS:
            yield _at(event), _BEGINS[event.event]
    began = [r for r in attempt.records if r.event == "start"]
    stepped = [r for r in attempt.records if not r.event]
    if began:
        yield _at(began[0]), "first_step" if stepped or "max_steps" in began[0].figures else "program"
    if stepped:
        yield _at(stepped[0]), "steps"
    if not attempt.records:
        yield from ((_at(event), "program") for event in attempt.events if event.event == "started")
    for record in attempt.records:
        if record.event in ("end", "saved"):
            yield _at(record), "ending"
    if (lost := _went_silent(attempt)) is not None:
        yield lost, "ending"


def _went_silent(attempt: Attempt) -> int | None:
    """The last moment that is known of a first host which was lost: its end is Slurm's word alone."""
    by_host = [event for event in attempt.events if event.texts.get("by") != "slurm"]
    if by_host == list(attempt.events) or not attempt.records or any(e.event in _OVER for e in by_host):
        return None
    return max(map(_at, (*by_host, *attempt.records)))


def _spans(attempt: Attempt) -> Iterator[Span]:
    """Evaluations, what checkpoints let training wait, and stalls."""
    for record in attempt.records:
        if record.event in _TOOK and record.figures.get("seconds", 0.0) > 0:
            end = _over(record)
            yield Span(end - _milliseconds(record.figures["seconds"]), end, _TOOK[record.event])
    for number, event in enumerate(attempt.events):
        if event.event == "stalled":
            after = (e for e in attempt.events[number + 1 :] if e.event in ("failed", "ended"))
            end = next(map(_at, after), attempt.end)
            yield Span(_at(event) - _milliseconds(max(0.0, event.figures.get("seconds", 0.0))), end, "stalls")


def _lost(attempt: Attempt, resumed: int | None) -> int | None:
    """The moment after which the attempt's steps were done again by later ones."""
    if resumed is None:
        return None
    saved = [r for r in attempt.records if r.event == "checkpoint" and r.step <= resumed]
    kept = [r for r in attempt.records if not r.event and r.step <= resumed]
    return max([attempt.start, *map(_over, saved), *map(_at, kept)])


def resumed(later: Iterable[Attempt]) -> int | None:
    """The earliest step that an attempt among `later` began after; None where none has stepped."""
    began = (
        [r.step for r in attempt.records if r.event == "start"]
        or [r.step - 1 for r in attempt.records if not r.event][:1]
        for attempt in later
    )
    return min((steps[0] for steps in began if steps), default=None)


def _untold(measured: list[Record]) -> list[Record]:
    """Starts of a run that an earlier version recorded, without events: nothing is known before training began."""
    return [r for r in measured if r.event == "start"] or measured[:1]


def _at(record: Record) -> int:
    return _milliseconds(record.figures["time"])


def _over(record: Record) -> int:
    """When what a record tells had let training wait: a checkpoint may be written long after its state was copied."""
    return min(_at(record), _milliseconds(record.figures.get("paused", record.figures["time"])))


def _milliseconds(seconds: float) -> int:
    """Whole numbers, whose sums are exact; within what a date can say."""
    return round(min(max(seconds, 0.0), 253_402_300_799.0) * 1000)

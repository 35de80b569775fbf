"""How long a step will take: the bound with what was measured in place of data sheets, corrected by runs.

Owns which figure of the probe stands for which rate, and what a forecast rests on; the arithmetic of a step is
sizing.traffic's, the correction residuals.py's. Pure.

A product runs at the rate that was measured of its size and type, a collective at the bus bandwidth of its own kind and
size, within a host and among all, the optimizer's update at the rate of the device's memory. What a step has beside
these (kernels' starts, softmax, norms, Python) is not in it: finished runs say how much that is.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple
from launcher.planning import residuals
from launcher.sizing import gpus, traffic

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from launcher.files.measured import Measured, Probe, Rate
    from launcher.planning.fit import Estimate
    from launcher.sizing.ladder import Evaluation
    from launcher.sizing.traffic import Bound, Collective

_FAST = 10**18  # bytes a second of what is not used


class Forecast(NamedTuple):
    """Seconds of a step, between `low` and `high`; None for what is not known."""

    step: float
    low: float
    high: float
    parts: Bound  # by the probe alone, before runs correct it
    tokens_per_second: float | None
    mfu: float | None  # of the data sheet's rate
    checkpoint: float | None  # seconds that writing one takes
    memory: float | None  # peak of runs over what was planned, the median
    probe: str  # the run that measured
    measured: str  # when
    runs: int  # how many corrected it


def make(estimate: Estimate, precision: str, measured: Measured) -> Forecast | None:
    """The forecast of a job; None where a bound cannot be told either."""
    parts = predicted(estimate, precision, measured.probe)
    low, high = (predicted(estimate, precision, measured.probe, end) for end in ("high", "low"))
    if not (parts and parts.step and low and low.step and high and high.step):
        return None
    points = [residuals.Point(ran.predicted, ran.passes, ran.seconds) for ran in measured.runs]
    found = residuals.fit(points)
    step = found.seconds(parts.step, passes(estimate))
    error = found.error  # None: too few runs to say, so the spread of the probe's rounds stands for it
    spread = (low.step / parts.step, high.step / parts.step)
    if error is not None:
        spread = (1 / error, error)
    elif points:  # as far off as the correction itself is
        factor = max(spread[1], 1 / spread[0], step / parts.step, parts.step / step)
        spread = (1 / factor, factor)
    bound, tokens = estimate.bound, parts.tokens_per_second
    return Forecast(
        step=step,
        low=step * spread[0],
        high=step * spread[1],
        parts=parts,
        tokens_per_second=tokens * parts.step / step if tokens else None,
        mfu=bound.mfu * bound.step / step if bound and bound.mfu and bound.step else None,
        checkpoint=_checkpoint(estimate, measured),
        memory=_median(
            ran.memory / ran.planned_memory for ran in measured.runs if ran.memory and ran.planned_memory
        ),
        probe=measured.run,
        measured=measured.measured,
        runs=len(points),
    )


def predicted(estimate: Estimate, precision: str, probe: Probe, end: str = "value") -> Bound | None:
    """A step by the probe alone, at its `value`, `low` or `high` rates; None where traffic or length is not known."""
    evaluation = estimate.evaluation
    if not estimate.told or estimate.trained is None:
        return None
    model, setup = estimate.model, evaluation.setup
    moved = traffic.collectives(model, evaluation.settings, setup)
    memory = _at(probe.memory, end)
    transfers = [_at(t.rate, end) for t in probe.transfers]
    card = estimate.machine.gpu or gpus.Gpu(
        name="CPU", memory=0, flops=0, bandwidth=0, link=0, host=0, capability=(0, 0)
    )
    card = card._replace(
        flops=int(_product(probe, precision, _size(evaluation, model.hidden), end)),
        bandwidth=int(memory),
        link=int(_link(moved, probe, "host", estimate, end=end) or _FAST),
        host=int(min(transfers, default=memory)),
    )
    among = _link([c for c in moved if c.scope != "host"], probe, "world", estimate, end=end)
    between = traffic.volume(moved, "fabric", setup.slots)
    if between and among is None:  # the probe had one host
        among = estimate.machine.fabric
    rates = traffic.Rates(among)
    return traffic.bound(model, evaluation.settings, setup, gpu=card, rates=rates)


def passes(estimate: Estimate) -> float:
    """Layers that a rank goes through in a step, there and back as one: what each costs anyway adds up."""
    evaluation = estimate.evaluation
    again = 4 / 3 if evaluation.setup.checkpointing else 1.0
    each: float = again * evaluation.settings.accumulation
    return each * estimate.model.layers


def _size(evaluation: Evaluation, width: int) -> float:
    """The side of a square product as large as those of a layer: tokens times the width squared."""
    return float((evaluation.setup.tokens * width**2) ** (1 / 3))


def _product(probe: Probe, precision: str, size: float, end: str) -> float:
    """Operations a second of a product of that size; of another type where this one was not measured."""
    known = [m for m in probe.matrix if m.type == precision] or probe.matrix
    known = [m for m in known if m.type == known[0].type]
    return _between([(m.size, _at(m.rate, end)) for m in known], size)


def _link(
    moved: Sequence[Collective], probe: Probe, scope: str, estimate: Estimate, *, end: str
) -> float | None:
    """Bytes a second at which a rank sends all of `moved`; None where nothing is sent, or it was not measured."""
    among = [c for c in probe.collectives if c.scope == scope]
    sent = sum(c.sent for c in moved)
    if not among or not sent:
        return None
    seconds = 0.0
    for collective in moved:
        own = [c for c in among if c.kind == _LIKE.get(collective.kind, collective.kind)] or among
        own = [c for c in own if c.kind == own[0].kind]
        rate = _between([(c.bytes, _at(c.rate, end)) for c in own], _call(collective, estimate))
        seconds += collective.sent / rate
    return sent / seconds


# what is not measured, and what it is like
_LIKE = {"reduce": "reduce_scatter", "all_to_all": "all_gather"}


def _call(collective: Collective, estimate: Estimate) -> float:
    """Bytes of one call: DeepSpeed sends gradients and weights in buckets, stage 3 layer by layer."""
    settings = estimate.evaluation.settings
    if settings.stage == 3:
        bucket = collective.message / max(1, estimate.model.layers)
    else:
        elements = settings.allgather_bucket if collective.kind == "all_gather" else settings.reduce_bucket
        bucket = float(elements * settings.weight_bytes)
    return max(1.0, min(collective.message, bucket))


def _between(known: Iterable[tuple[float, float]], size: float) -> float:
    """The rate at `size`, on straight lines between those known, both in logarithms; at the ends as the nearest."""
    points = sorted((math.log(s), math.log(rate)) for s, rate in known)
    at = min(max(math.log(size), points[0][0]), points[-1][0])
    for (left, low), (right, high) in itertools.pairwise(points):
        if at <= right:
            share = (at - left) / (right - left) if right > left else 0.0
            return math.exp(low + share * (high - low))
    return math.exp(points[-1][1])


def _at(rate: Rate, end: str) -> float:
    value: float = getattr(rate, end)
    return value


def _checkpoint(estimate: Estimate, measured: Measured) -> float | None:
    """By the rate of runs that wrote some, else of the run folder's disk as all hosts of the probe wrote to it."""
    if estimate.saving is None:
        return None
    rates = (
        r.checkpoint_bytes / r.checkpoint_seconds
        for r in measured.runs
        if r.checkpoint_seconds and r.checkpoint_bytes
    )
    disk = next(
        (d.write.value * len(measured.probe.hosts) for d in measured.probe.disks if d.what == "run folder"),
        None,
    )
    rate = _median(rates) or disk
    return estimate.saving.size / rate if rate else None


def _median(values: Iterable[float]) -> float | None:
    import statistics  # not for a plan without measurements

    listed = list(values)
    return statistics.median(listed) if listed else None

"""Which trial of a tuning run comes next, and which configuration is the best: decided from results alone.

Owns the decision and no process, clock or file, so that a run that is started again goes on where it stood, and the
launcher says of a run what its hosts decided. Standard library alone.

Successive halving with a reduction factor of 4 (Jamieson and Talwalkar, https://arxiv.org/abs/1502.07943; Li et al.,
https://arxiv.org/abs/1603.06560, who advise 3 or 4): all are tried for a few steps, the best quarter of them for four
times as many, and so on until one is left. With a half instead of a quarter a third more trials would start, and the
start of ranks costs as much as many steps.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

FACTOR = 4
WARMUP = 2  # steps that are not counted: buckets are sized, kernels compiled
LEAST = WARMUP + 1  # steps of a trial
DONE, MEMORY, HUNG, LATE, FAILED = "done", "out of memory", "hung", "time limit", "failed"


class Trial(NamedTuple):
    """What decides about a configuration: `group` is all but the micro batch; `bound`: least seconds of a step.

    `less`: the trials that do the same with less work, as without recomputation or offload: where one of them works,
    this one is not tried.
    """

    group: str
    micro: int
    bound: float | None = None
    less: tuple[int, ...] = ()


class Result(NamedTuple):
    """How a trial of so many steps ended, and the seconds of one of its steps; None where none was measured."""

    trial: int
    steps: int
    result: str
    step_seconds: float | None = None

    @property
    def measured(self) -> bool:
        return self.result == DONE and self.step_seconds is not None


class Next(NamedTuple):
    """The trial to start, in the round that begins with 0."""

    trial: int
    round: int
    steps: int


def following(trials: Sequence[Trial], first: int, results: Sequence[Result]) -> Next | None:
    """What to try after `results`, beginning with `first` steps; None when all is decided."""
    entrants = list(range(len(trials)))
    for number in range(len(trials)):
        steps = first * FACTOR**number
        tried = {result.trial: result for result in results if result.steps == steps}
        for trial in entrants:
            if trial not in tried and not hopeless(trials, trial, results):
                return Next(trial, number, steps)
        left = sorted((r.step_seconds or 0.0, r.trial) for r in tried.values() if r.measured)
        entrants = [trial for _, trial in left[: math.ceil(len(left) / FACTOR)]]
        if len(entrants) < 2:
            return None
    return None


def hopeless(trials: Sequence[Trial], trial: int, results: Sequence[Result]) -> str:
    """Why a trial cannot win after `results`; '' where it may. Once it is hopeless it stays so."""
    this = trials[trial]
    tried = any(result.trial == trial for result in results)  # then its own time counts
    for result in results:
        other = trials[result.trial]
        if result.measured and result.trial in this.less and not tried:
            return f"{other.group}, micro {other.micro} works and does less"
        if result.result == MEMORY and other.group == this.group and other.micro < this.micro:
            return f"micro batch {other.micro} of the same ran out of memory"
    fastest = min((r.step_seconds for r in results if r.measured and r.step_seconds), default=None)
    if fastest is not None and this.bound is not None and this.bound > fastest:
        return f"at best {this.bound:.3g} s a step, and {fastest:.3g} s was measured"
    return ""


def ranked(results: Sequence[Result]) -> list[Result]:
    """The last result of each trial that was measured, the best first: those of the most steps, then the fastest."""
    latest = {r.trial: r for r in sorted(results, key=lambda r: r.steps) if r.measured}
    return sorted(latest.values(), key=lambda r: (-r.steps, r.step_seconds or 0.0, r.trial))


def seconds(steps: Sequence[float]) -> float | None:
    """The seconds of a step, from those of each of a trial's: the median after the first ones. None of too few."""
    return statistics.median(steps[WARMUP:]) if len(steps) >= LEAST else None

"""What runs cost and were good for: GPU hours by what they went into, goodput, MFU, tokens, money, energy.

Owns the figures, their words and keys. How time is split is runs/hours.py's; `GPU hours` are those of slots, also where
ranks run on CPUs.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import units
from launcher.errors import LauncherError
from launcher.reports import tables
from launcher.runs import hours, metrics, record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from launcher.planning.fit import Estimate

_HOUR = 3_600_000  # milliseconds
_WIDTH = 32  # characters of the longest bar


class Use(NamedTuple):
    """What a run used. `shares`: slot-milliseconds, which add up to what was allocated; None: not known."""

    name: str
    shares: dict[str, int]
    attempts: int
    hosts: list[int]  # of each attempt, without idle ones; 0 where that was not told
    is_whole: bool  # whether the start of each attempt was told, and the end of all but a running one
    tokens: float | None  # trained on, each once
    mfu: float | None  # model FLOPS of the median step over what the GPUs could do in its time
    bound_mfu: float | None  # the same of the shortest step that the plan holds possible
    mfu_allocated: float | None  # model FLOPS of all tokens over what the GPUs could do in all allocated time
    price: float | None
    currency: str
    kwh: float | None

    @property
    def gpu_hours(self) -> float:
        return sum(self.shares.values()) / _HOUR

    @property
    def goodput(self) -> float | None:
        """The share of steps that were kept; None where nothing was allocated."""
        total = sum(self.shares.values())
        return self.shares["steps"] / total if total else None

    @property
    def tokens_per_gpu_hour(self) -> float | None:
        return self.tokens / self.gpu_hours if self.tokens is not None and self.gpu_hours else None


def of(name: str, folder: Path, now: float | None = None) -> Use | None:
    """What the run in `folder` used; None where nothing was recorded. `now`, Unix time, if it still runs."""
    from launcher.planning import recorded  # with the parser of YAML, which a run that is not there needs not

    events, records = hours.read(folder)
    attempts = hours.attempts(events, records, now)
    if not attempts:
        return None
    shares = hours.account(attempts)
    plan, tokens = _plan(folder), _tokens(records)
    seconds, slots = sum(shares.values()) / 1000, attempts[-1].slots
    speeds = [speed * (slots / on) for on, speed in _speeds(attempts)]
    speed = statistics.median(speeds) if speeds else None
    estimate = recorded.estimate(plan)
    bound = _bound(estimate)
    # MFU of a token a second, on so many slots; the estimate is of the most that the job may have
    per_token = bound[0] / bound[1] * (estimate.machine.world / slots) if estimate and bound else None
    whole = tokens / seconds * slots if tokens is not None and seconds else None
    costs = recorded.gpu_hour(plan)
    slot_hours = seconds / 3600
    return Use(
        name=units.printable(name),
        shares=shares,
        attempts=len(attempts),
        hosts=[int(a.events[0].figures.get("hosts", 0)) if a.events else 0 for a in attempts],
        is_whole=bool(events) and all(a.ended for a in (attempts if now is None else attempts[:-1])),
        tokens=tokens,
        mfu=speed * per_token if speed is not None and per_token else None,
        bound_mfu=bound[0] if bound else None,
        mfu_allocated=whole * per_token if whole is not None and per_token else None,
        price=None if costs.price is None else costs.price * slot_hours,
        currency=costs.currency,
        kwh=None if costs.watts is None else costs.watts * slot_hours / 1000,
    )


def data(use: Use | None) -> dict[str, Any] | None:
    """Machine-readable: hours of slots, shares of the allocated time from 0 to 1."""
    if use is None:
        return None
    return {
        "allocated": use.gpu_hours,
        **{share: time / _HOUR for share, time in use.shares.items()},
        "goodput": use.goodput,
        "attempts": use.attempts,
        "hosts": use.hosts,
        "whole": use.is_whole,
        "mfu": use.mfu,
        "mfu_bound": use.bound_mfu,
        "mfu_allocated": use.mfu_allocated,
        "tokens": use.tokens,
        "tokens_per_gpu_hour": use.tokens_per_gpu_hour,
        "price": use.price,
        "currency": use.currency if use.price is not None else None,
        "kwh": use.kwh,
    }


def shares(use: Use) -> dict[str, float]:
    """GPU hours by what a person reads of each share."""
    return {hours.SHARES[share]: time / _HOUR for share, time in use.shares.items()}


def text(uses: Sequence[Use]) -> str:
    """A table of the shares of all runs together, and one with a row for each run."""
    total = {share: sum(use.shares[share] for use in uses) for share in hours.SHARES}
    allocated, most = sum(total.values()), max(total.values())
    rows = [
        (
            hours.SHARES[share],
            _hours(time),
            _percent(time, allocated),
            "█" * round(_WIDTH * time / (most or 1)),
        )
        for share, time in total.items()
        if time
    ]
    rows.append(("allocated", _hours(allocated), _percent(allocated, allocated), ""))
    lines = [tables.table(rows, ("WHERE THE TIME WENT", "GPU HOURS", "SHARE", "")), "", _each(uses)]
    if costs := _sums(uses):
        lines.append(costs)
    for use in uses:
        if len(set(use.hosts)) > 1:
            lines.append(f"{use.name}: its attempts had {', '.join(map(str, use.hosts))} hosts")
    if not all(use.is_whole for use in uses):
        lines.append("* the start or the end of an attempt was not told: the time around it is not counted")
    return "\n".join(lines)


def _each(uses: Iterable[Use]) -> str:
    rows = [
        (
            f"{use.name}{'' if use.is_whole else ' *'}",
            _hours(sum(use.shares.values())),
            str(use.attempts),
            _share(use.goodput),
            _share(use.mfu),
            _share(use.bound_mfu),
            _share(use.mfu_allocated),
            tables.number(use.tokens_per_gpu_hour, ",.0f"),
            "-" if use.price is None else f"{use.price:,.2f} {use.currency}",
            "-" if use.kwh is None else f"{use.kwh:,.3g} kWh",
        )
        for use in uses
    ]
    head = "RUN|GPU HOURS|ATTEMPTS|GOODPUT|MFU|BOUND|MFU OF ALL TIME|TOKENS/GPU HOUR|MONEY|ENERGY"
    return tables.table(rows, head.split("|"))


def _sums(uses: Sequence[Use]) -> str:
    """What several runs cost together, each currency apart."""
    if len(uses) < 2:
        return ""
    money: dict[str, float] = {}
    for use in uses:
        if use.price is not None:
            money[use.currency] = money.get(use.currency, 0.0) + use.price
    parts = [f"{amount:,.2f} {currency}" for currency, amount in sorted(money.items())]
    if energy := [use.kwh for use in uses if use.kwh is not None]:
        parts.append(f"{sum(energy):,.3g} kWh")
    return f"together: {', '.join(parts)}" if parts else ""


def _hours(time: int) -> str:
    amount = time / _HOUR
    if 0 < amount < 0.001:
        return "< 0.001"
    return f"{amount:,.3f}" if amount < 100 else f"{amount:,.0f}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _speeds(attempts: Iterable[hours.Attempt]) -> Iterator[tuple[int, float]]:
    """(slots, tokens a second) of each step that was logged."""
    for attempt in attempts:
        for line in attempt.records:
            if "tokens_per_second" in line.figures:
                yield attempt.slots, line.figures["tokens_per_second"]


def _tokens(records: Sequence[metrics.Record]) -> float | None:
    """Tokens trained on between the first and the last step that were logged; the first step's are among them."""
    known = [r.figures for r in metrics.steps(records) if "tokens" in r.figures]
    if not known:
        return None
    first = known[0].get("tokens_per_second", 0.0) * known[0].get("step_seconds", 0.0)
    return max(0.0, known[-1]["tokens"] - known[0]["tokens"] + first)


def _plan(folder: Path) -> dict[str, Any]:
    """The run's plan.json; empty where it is none."""
    try:
        plan = record.read_json(folder / "plan.json")
    except LauncherError:
        return {}
    return plan if isinstance(plan, dict) else {}


def _bound(estimate: Estimate | None) -> tuple[float, float] | None:
    """(MFU, tokens a second) of the shortest step that is possible; None where GPU, fabric or model are not known."""
    bound = estimate.bound if estimate else None
    if bound is None or not bound.mfu or not bound.tokens_per_second:
        return None
    return bound.mfu, bound.tokens_per_second

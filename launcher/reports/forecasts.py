"""What `plan` says of a forecast, and what `cluster probe` and `cluster measured` say of a measured file.

Owns words and keys, which README.md beside this file documents; the figures are planning/forecast.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import tables

if TYPE_CHECKING:
    from launcher.files.measured import Measured
    from launcher.planning.forecast import Forecast


def data(forecast: Forecast) -> dict[str, Any]:
    """`forecast` of `plan --json`; seconds."""
    parts = forecast.parts
    return {
        "step": forecast.step,
        "low": forecast.low,
        "high": forecast.high,
        "tokens_per_second": forecast.tokens_per_second,
        "mfu": forecast.mfu,
        "compute": parts.compute,
        "intra": parts.intra,
        "fabric": parts.fabric,
        "optimizer": parts.optimizer,
        "uncorrected": parts.step,
        "checkpoint": forecast.checkpoint,
        "memory_over_plan": forecast.memory,
        "probe": forecast.probe,
        "measured": forecast.measured,
        "runs": forecast.runs,
    }


def lines(forecast: Forecast) -> list[str]:
    """The same as text, under the bound."""
    parts, speed = forecast.parts, forecast.tokens_per_second
    figures = [f"{speed:,.0f} tokens/s"] if speed else []
    figures += [f"MFU {forecast.mfu:.0%}"] if forecast.mfu else []
    more = f" ({', '.join(figures)})" if figures else ""
    of = "compute {:.3g} s, links {:.3g} s, fabric {:.3g} s, update {:.3g} s"
    told = of.format(parts.compute, parts.intra, parts.fabric or 0, parts.optimizer)
    found = [
        f"forecast              {forecast.step:.3g} s, between {forecast.low:.3g} and {forecast.high:.3g} s{more}",
        f"  which rests on      {_basis(forecast)}",
        f"  by the probe alone  {parts.step or 0:.3g} s: {told}",
    ]
    if forecast.checkpoint:
        found.append(f"  a checkpoint takes  {_seconds(forecast.checkpoint)}")
    if forecast.memory:
        found.append(f"  peak memory         of those runs was {forecast.memory:.0%} of what was planned")
    return found


def _basis(forecast: Forecast) -> str:
    on = f"{forecast.probe}, measured until {forecast.measured[:10]}"
    if not forecast.runs:
        return f"{on}, and no run: what a step has beside products and collectives is not in it"
    few = "" if forecast.runs > 2 else ": the bar is as wide as their correction"
    return f"{on}, and {forecast.runs} finished run{'s' if forecast.runs > 1 else ''}{few}"


def _seconds(value: float) -> str:
    return units.brief(value) if value >= 10 else f"{value:.2g} s"


def measured(found: Measured) -> str:
    """The hosts of a measured file, what of them is slow, and its runs beside what the probe alone forecasts."""
    hosts = [
        (
            h.host,
            h.gpu or f"{h.cpus} CPUs",
            h.driver or "-",
            units.gigabytes(h.memory),
            h.interface or "-",
            ", ".join(dict.fromkeys(d.name for d in h.rdma)) or "-",
            f"{h.rate / 1e12:.3g}",
        )
        for h in found.probe.hosts
    ]
    head = ("HOST", "DEVICE", "DRIVER", "MEMORY", "INTERFACE", "RDMA", "10^12/S")
    parts = [tables.table(hosts, head)]
    slow = found.probe.slow
    named = [f"SLOW: host {host}" for host in slow.hosts]
    named += [f"SLOW: the link of {' and '.join(link)}" for link in slow.links]
    if named:
        parts.append("\n".join(map(units.printable, named)))
    if found.runs:
        rows = [
            (ran.run, f"{ran.predicted:.3g} s", f"{ran.seconds:.3g} s", f"{ran.seconds / ran.predicted:.2f}")
            for ran in found.runs
        ]
        parts.append(tables.table(rows, ("RUN", "BY THE PROBE", "STEP TIME", "RATIO")))
    return "\n\n".join(parts)

"""What all ranks measured, merged into probe.json, and as tables for a person.

Owns which figure of many ranks counts, and which host or link is called slow; probe.py has the form.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from workloads import metrics, probe_links

if TYPE_CHECKING:
    from collections.abc import Iterable

    Rows = list[tuple[str, ...]]

FORMAT = 1


def merged(every: list[dict[str, Any]], device: str, slots: int, versions: dict[str, str]) -> dict[str, Any]:
    """What all ranks measured, in the form of probe.json: of each figure the slowest rank's."""
    hosts = [_host(every[first : first + slots]) for first in range(0, len(every), slots)]
    names = _names(hosts)
    pairs = {(names[a], names[b]): rate for rank in every[::slots] for a, b, rate in rank["pairs"]}
    slow_hosts, links = probe_links.slow(pairs)
    weak = _weak(hosts)
    first = every[0]
    return {
        "format": FORMAT,
        "time": round(time.time()),
        "device": device,
        "ranks": len(every),
        "slots": slots,
        "versions": versions,
        "hosts": hosts,
        "matrix": _slowest(every, "matrix", ("type", "size")),
        "memory": rate([rank["memory"] for rank in every]),
        "transfers": [
            {"what": what, "rate": rate([rank["transfers"][what] for rank in every])}
            for what in first["transfers"]
        ],
        "collectives": _slowest(every, "collectives", ("kind", "scope", "ranks", "bytes")),
        "pairs": [{"hosts": list(pair), "rate": value} for pair, value in pairs.items()],
        "disks": [
            {
                "what": what,
                **{way: rate([rank["disks"][what][way] for rank in every[::slots]]) for way in ways},
            }
            for what, ways in first["disks"].items()
        ],
        "slow": {"hosts": sorted({*slow_hosts, *weak}), "links": [list(link) for link in links]},
    }


def rate(rounds: list[list[float]]) -> dict[str, float]:
    """The rounds of each rank as {value, low, high}, of the slowest rank in each round that all have."""
    slowest = [min(values) for values in zip(*rounds, strict=False)]
    return {"value": statistics.median(slowest), "low": min(slowest), "high": max(slowest)}


def report(found: dict[str, Any]) -> str:
    """The figures as tables, and what is slow."""
    rows: Rows = [("matrix", "size", "10^9 operations/s", "least", "most")]
    rows += [(m["type"], str(m["size"]), *_cells(m["rate"])) for m in found["matrix"]]
    links: Rows = [("collective", "within", "bytes", "10^9 bytes/s", "least", "most")]
    for c in found["collectives"]:
        where = "a host" if c["scope"] == "host" else "all hosts"
        links.append((c["kind"], where, f"{c['bytes']:,}", *_cells(c["rate"])))
    others: Rows = [("", "10^9 bytes/s", "least", "most"), ("memory", *_cells(found["memory"]))]
    others += [(t["what"], *_cells(t["rate"])) for t in found["transfers"]]
    others += [(f"{d['what']}, {way}", *_cells(d[way])) for d in found["disks"] for way in ("write", "read")]
    others += [(" – ".join(p["hosts"]), f"{p['rate'] / 1e9:.3f}", "", "") for p in found["pairs"]]
    tables = [metrics.table(rows) for rows in (rows, links, others) if len(rows) > 1]
    slow = [f"SLOW: host {host}" for host in found["slow"]["hosts"]]
    slow += [f"SLOW: the link of {one} and {other}" for one, other in found["slow"]["links"]]
    return "\n\n".join([*tables, *(["\n".join(slow)] if slow else [])])


def _cells(rate: dict[str, float]) -> tuple[str, str, str]:
    value, low, high = (f"{rate[key] / 1e9:.3f}" for key in ("value", "low", "high"))
    return value, low, high


def _host(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """One host by its ranks: the least memory, and the rate of the slowest in the largest product."""
    # the best round: a neighbour's load slows one, a throttled device all of them
    slowest = min(max(rank["matrix"][-1]["rate"]) for rank in ranks)
    least = {key: min(r["host"][key] for r in ranks) for key in ("memory", "free")}
    return {**ranks[0]["host"], **least, "rate": slowest}


def _names(hosts: list[dict[str, Any]]) -> list[str]:
    """A name for each host, also where two call themselves the same."""
    own = [host["host"] for host in hosts]
    return [name if own.count(name) == 1 else f"{name}#{index}" for index, name in enumerate(own)]


def _weak(hosts: list[dict[str, Any]]) -> list[str]:
    """The hosts whose arithmetic is slow beside that of the others."""
    usual = statistics.median(host["rate"] for host in hosts)
    return [
        n for n, host in zip(_names(hosts), hosts, strict=True) if host["rate"] < probe_links.SLOW * usual
    ]


def _slowest(every: list[dict[str, Any]], part: str, keys: Iterable[str]) -> list[dict[str, Any]]:
    """The entries of `part` that every rank has, each with the rate of the slowest."""
    keys = tuple(keys)
    rounds: dict[tuple[Any, ...], list[list[float]]] = {}
    for rank in every:
        for entry in rank[part]:
            rounds.setdefault(tuple(entry[key] for key in keys), []).append(entry["rate"])
    return [
        {**dict(zip(keys, name, strict=True)), "rate": rate(values)}
        for name, values in rounds.items()
        if len(values) == len(every)
    ]

"""How fast ranks send to each other: collectives by size, within hosts and among all, and hosts pair by pair.

Owns the groups that measure and which link or host is slow. Bandwidths are the bus bandwidth of nccl-tests, what the
slowest link carries whatever the number of ranks, in bytes a second:
https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from workloads import probe_rates
from workloads.allreduce import FACTORS, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from workloads.session import Session

KINDS = {"all_reduce": "all-reduce", "all_gather": "all-gather", "reduce_scatter": "reduce-scatter"}
PAIR = {"cuda": 2**26, "cpu": 2**20}  # bytes that two hosts exchange
SLOW = 0.5  # of what most others reach
_ROUND = 0.02  # seconds
_SLOW_CALL = 0.1  # seconds: of such calls two rounds do, and larger ones are not tried


def collectives(sizes: Sequence[int], rounds: int, this: Session) -> Iterator[dict[str, Any]]:
    """Each kind and size within every host at the same time, and among all ranks; `rate` has a value a round."""
    slots = int(os.environ.get("LOCAL_WORLD_SIZE", this.world_size))
    host = this.rank // slots
    scopes = {"host": _group(range(host * slots, (host + 1) * slots))} if slots > 1 else {}
    if this.world_size > slots:
        scopes["world"] = None
    for scope, group in scopes.items():
        ranks = this.world_size if scope == "world" else slots
        for kind in KINDS:
            for size in sizes:
                rates, once = _measured(kind, size, rounds, this=this, group=group, ranks=ranks)
                yield {"kind": kind, "scope": scope, "ranks": ranks, "bytes": size, "rate": rates}
                if once > _SLOW_CALL:
                    break
    if scopes.get("host"):
        _leave(scopes["host"])


def pairs(most: int, rounds: int, this: Session) -> Iterator[tuple[int, int, float]]:
    """(host, host, rate) of the pairs that this host is in: of all up to `most` hosts, else of neighbours in a ring."""
    slots = int(os.environ.get("LOCAL_WORLD_SIZE", this.world_size))
    mine, hosts = this.rank // slots, this.world_size // slots
    for turn in tournament(hosts) if hosts <= most else ring(hosts):
        for one, other in turn:
            if mine in (one, other):
                group = _group(host * slots + slot for host in (one, other) for slot in range(slots))
                rates, _ = _measured(
                    "all_reduce", PAIR[this.device.type], rounds, this=this, group=group, ranks=2 * slots
                )
                yield one, other, max(rates)  # a neighbour's load slows a round, a broken cable all of them
                _leave(group)


def tournament(hosts: int) -> list[list[tuple[int, int]]]:
    """Turns in which every two hosts meet once, and no host is in two pairs of one turn (the circle method)."""
    places = [*range(hosts), *([-1] if hosts % 2 else [])]
    turns = []
    for _ in range(len(places) - 1):
        met = zip(places[: len(places) // 2], reversed(places), strict=False)
        turns.append([(min(pair), max(pair)) for pair in met if -1 not in pair])
        places = [places[0], places[-1], *places[1:-1]]
    return turns if hosts > 1 else []


def ring(hosts: int) -> list[list[tuple[int, int]]]:
    """Turns in which every host meets the one before and the one after it."""
    met = [(host, host + 1) for host in range(hosts - 1)]
    last = [[(0, hosts - 1)]] if hosts > 2 else []
    return [turn for turn in (met[::2], met[1::2], *last) if turn]


def slow(rates: dict[tuple[str, str], float]) -> tuple[list[str], list[tuple[str, str]]]:
    """The hosts all of whose links are slow, and the slow links between others.

    Slow is below SLOW of the upper quartile. Of two hosts nothing is slow: there is nothing to compare with.
    """
    usual = sorted(rates.values())[3 * len(rates) // 4] if len(rates) > 1 else 0.0
    below = [pair for pair, rate in rates.items() if rate < SLOW * usual]
    names = list(dict.fromkeys(name for pair in rates for name in pair))
    hosts = [name for name in names if all(pair in below for pair in rates if name in pair)]
    return hosts, [pair for pair in below if not set(pair) & set(hosts)]


def _measured(
    kind: str, size: int, rounds: int, *, this: Session, group: Any, ranks: int
) -> tuple[list[float], float]:
    """Bus bandwidth in each round, by the slowest rank of the group, and the seconds of one call."""
    import torch

    word = KINDS[kind]
    each = max(1, size // 4 // ranks)
    call, *_ = prepare(word, each, torch.float32, this, group=group)
    slowest = _slowest(this, group)
    call()
    once = slowest(probe_rates.seconds(call))
    times = max(1, min(50, round(_ROUND / max(once, 1e-7))))
    rounds = rounds if once < _SLOW_CALL else min(2, rounds)
    spent = [slowest(probe_rates.seconds(call, times)) / times for _ in range(rounds)]
    return [each * ranks * 4 * FACTORS[word](ranks) / seconds for seconds in spent], once


def _slowest(this: Session, group: Any) -> Callable[[float], float]:
    """What makes a figure of each rank the largest of them all."""
    import torch
    from torch import distributed

    def agreed(value: float) -> float:
        box = torch.tensor([value], dtype=torch.float32, device=this.device)
        distributed.all_reduce(box, op=distributed.ReduceOp.MAX, group=group)
        return float(box)

    return agreed


def _group(ranks: Any) -> Any:
    from torch import distributed

    return distributed.new_group(list(ranks), use_local_synchronization=True)


def _leave(group: Any) -> None:
    from torch import distributed

    distributed.barrier(group=group)
    distributed.destroy_process_group(group)

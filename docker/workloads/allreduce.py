"""Measure the network between ranks: `python -m workloads.allreduce`, once per rank.

Owns sizes, timing and the two bandwidths as nccl-tests defines them, written as a table and as bandwidth.json; what a
fabric should reach is the cluster's. Definitions: https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md

    algorithm bandwidth = bytes / seconds           grows or shrinks with the number of ranks
    bus bandwidth = algorithm bandwidth x factor    what the slowest link carries, whatever the number of ranks
"""

from __future__ import annotations

import argparse
import os
import re
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import heartbeat
from ending import ABSENT

from workloads import metrics, options, session
from workloads.session import Session, Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

TRAITS = Traits()

FILE = "bandwidth.json"
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
HEAD = f"{'collective':14}  {'bytes':>11}  {'time':>9}  {'algbw':>8}  {'busbw':>8}  wrong"
# bus bandwidth over algorithm bandwidth for n ranks
FACTORS: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
}


@dataclass(frozen=True)
class Result:
    """One size of one collective. Bandwidths are 10^9 bytes per second; `wrong` counts ranks with a wrong result."""

    collective: str
    bytes: int
    seconds: float
    algorithm_bandwidth: float
    bus_bandwidth: float
    wrong: int


def size(text: str) -> int:
    """Bytes of `64`, `8K`, `128M` or `1G` (powers of 1024, as in nccl-tests)."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([KMG]?)", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"a size such as 64, 8K, 128M or 1G is expected, not {text!r}")
    return int(match[1]) * UNITS[match[2]]


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.allreduce",
        description="Measure the bandwidth of collectives between all ranks.",
        allow_abbrev=False,
    )
    options.launcher(command, only=("run-dir",))
    group = command.add_argument_group("measurement")
    group.add_argument(
        "--collectives",
        nargs="+",
        choices=tuple(FACTORS),
        default=["all-reduce"],
        metavar="NAME",
        help=f"which: {', '.join(FACTORS)}",
    )
    group.add_argument(
        "--min-size", type=size, default="1K", metavar="SIZE", help="smallest message, all ranks' data"
    )
    group.add_argument("--max-size", type=size, default="256M", metavar="SIZE", help="largest message")
    group.add_argument(
        "--factor", type=options.factor, default=4, metavar="N", help="each size over the one before"
    )
    group.add_argument(
        "--warmup", type=options.count, default=5, metavar="N", help="untimed calls of each size"
    )
    group.add_argument(
        "--iterations", type=options.positive, default=20, metavar="N", help="timed calls of each size"
    )
    group.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the numbers"
    )
    group.add_argument(
        "--require",
        type=options.rate,
        metavar="GBPS",
        help="fail when the best bus bandwidth of a collective is below this many 10^9 bytes per second",
    )
    return command


def measure(args: argparse.Namespace, this: Session) -> int:
    """Measure every size of every collective; returns the exit code. Raises Stop when a result is wrong or too slow."""
    if args.max_size < args.min_size:
        raise Stop(f"--max-size {args.max_size} is below --min-size {args.min_size}")
    say = print if this.rank == 0 else lambda *_: None
    say(f"{this.world_size} ranks on {this.device.type}, {args.dtype}, {args.iterations} calls of each size")
    say("time in microseconds, bandwidths in 10^9 bytes per second")
    say(HEAD)
    results = []
    heartbeat.mine().phase(heartbeat.OTHER)  # how long a size takes is what is to be found out
    for collective in args.collectives:
        bytes_ = args.min_size
        while bytes_ <= args.max_size:
            results.append(one(collective, bytes_, args, this))
            say(line(results[-1]))
            bytes_ *= args.factor
    best = {name: max(r.bus_bandwidth for r in results if r.collective == name) for name in args.collectives}
    if this.rank == 0:
        written = {
            "world_size": this.world_size,
            "device": this.device.type,
            "dtype": args.dtype,
            "best_bus_bandwidth": best,
            "results": [asdict(result) for result in results],
        }
        metrics.write_atomically(this.run_dir / FILE, written)
        say(f"written to {this.run_dir / FILE}")
    judge(results, best, args.require)
    return os.EX_OK


def judge(results: list[Result], best: dict[str, float], required: float | None) -> None:
    """Raise Stop (ABSENT) when data came out wrong, or when a collective is slower than required."""
    wrong = next((result for result in results if result.wrong), None)
    if wrong:
        raise Stop(
            f"{wrong.collective} of {wrong.bytes} bytes gave wrong numbers on {wrong.wrong} ranks: memory, network "
            "or its driver is broken, do not train on it",
            ABSENT,
        )
    for name, reached in best.items():
        if required and reached < required:
            raise Stop(
                f"the bus bandwidth of {name} is {reached:.3g} GB/s and --require asks for {required:.3g}: set "
                "NCCL_DEBUG=INFO in the job's env to see which interface and devices NCCL chose",
                ABSENT,
            )


def one(collective: str, wanted: int, args: argparse.Namespace, this: Session) -> Result:
    """Time one collective of about `wanted` bytes, rounded down to whole numbers for each rank (at least one)."""
    import torch
    from deepspeed.accelerator import get_accelerator

    ranks, kind = this.world_size, getattr(torch, args.dtype)
    each = max(1, wanted // kind.itemsize // ranks)
    bytes_ = each * ranks * kind.itemsize
    call, given, taken, expected = prepare(collective, each, kind, this)
    synchronize = get_accelerator().synchronize
    for _ in range(args.warmup):
        call()
    synchronize()
    torch.distributed.barrier()
    began = time.perf_counter()
    for _ in range(args.iterations):
        call()
    synchronize()
    seconds, _ = this.agree((time.perf_counter() - began) / args.iterations)
    given.fill_(this.rank)
    call()
    share, _ = this.agree(float(not torch.allclose(taken, expected, rtol=0.02)))
    bandwidth = bytes_ / seconds / 1e9
    return Result(
        collective=collective,
        bytes=bytes_,
        seconds=seconds,
        algorithm_bandwidth=bandwidth,
        bus_bandwidth=bandwidth * FACTORS[collective](ranks),
        wrong=round(share * ranks),
    )


def prepare(
    collective: str, each: int, kind: torch.dtype, this: Session, *, group: Any = None
) -> tuple[Callable[[], object], torch.Tensor, torch.Tensor, torch.Tensor]:
    """The call, its input and output, and the output when every rank puts in its number. The input is zero at first.

    `group`: of the ranks that take part, all without one. As in nccl-tests, the bytes of an all-gather or a
    reduce-scatter are those of all of its ranks together.
    """
    import torch
    from torch import distributed

    ranks = distributed.get_process_group_ranks(group or distributed.group.WORLD)
    numbers = torch.tensor(ranks, device=this.device).to(kind)
    whole = torch.zeros(each * len(ranks), dtype=kind, device=this.device)
    part, other = whole[:each].clone(), whole.clone()
    total, by_rank = numbers.sum(), numbers.repeat_interleave(each)
    cases: dict[str, tuple[Callable[[], object], torch.Tensor, torch.Tensor, torch.Tensor]] = {
        "all-reduce": (lambda: distributed.all_reduce(whole, group=group), whole, whole, total),
        "all-gather": (
            lambda: distributed.all_gather_into_tensor(whole, part, group=group),
            part,
            whole,
            by_rank,
        ),
        "reduce-scatter": (
            lambda: distributed.reduce_scatter_tensor(part, whole, group=group),
            whole,
            part,
            total,
        ),
        "all-to-all": (
            lambda: distributed.all_to_all_single(other, whole, group=group),
            whole,
            other,
            by_rank,
        ),
        "broadcast": (
            lambda: distributed.broadcast(whole, src=ranks[0], group=group),
            whole,
            whole,
            numbers[0],
        ),
    }
    return cases[collective]


def line(result: Result) -> str:
    """A result as a row of the table."""
    return (
        f"{result.collective:14}  {result.bytes:11,}  {result.seconds * 1e6:9,.1f}"
        f"  {result.algorithm_bandwidth:8.3f}  {result.bus_bandwidth:8.3f}  {result.wrong:5}"
    )


def main() -> None:
    """Run this rank; exits with ABSENT for a broken or too slow network."""
    session.run(parser(), measure)


if __name__ == "__main__":
    main()

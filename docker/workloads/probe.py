"""What the hosts of a cluster really do: arithmetic, memory, collectives, disks; a minute, once for a new cluster.

Owns the order, and the form of probe.json below; each figure is measured in probe_rates.py (a rank alone),
probe_links.py (ranks with each other) and probe_hosts.py (what a host says of itself), and probe_merging.py makes one
of those of all ranks. They measure at the same time, as they train, and the slowest counts. `launcher cluster probe`
runs it and keeps what it found.

    format        1; another number for a reader that cannot read this
    time          Unix time at the end
    device        cuda or cpu
    ranks, slots  of all hosts, of one
    versions      torch, deepspeed, and nccl on GPUs
    hosts         for each: host, cpus, driver, gpu, interface (towards the other hosts), interfaces, rdma,
                  memory and free (bytes that torch has of a GPU; of a host without), rate (operations a second in the
                  largest product, of its slowest rank)
    matrix        type, size, rate: operations a second of a square product
    memory        rate: bytes a second of a copy within the device's memory, read and written
    transfers     what (to_device, from_device), rate
    collectives   kind, scope (host: within each; world: all), ranks, bytes, rate: bus bandwidth, bytes a second
    pairs         hosts (two names), rate: bus bandwidth of an all-reduce between them
    disks         what (run folder, scratch), write, read: bytes a second of a host while all of them do it
    slow          hosts: names; links: pairs of names

A rate is {value, low, high}: the median, the least and the most of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat

from workloads import metrics, options, probe_hosts, probe_links, probe_merging, probe_rates, session
from workloads.allreduce import size
from workloads.session import Session, Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAITS = Traits()
FILE = "probe.json"
MARK = "probe.json: "  # before the same in the log, for whom the run folder is out of reach
TYPES = ("bf16", "fp16", "fp32")
_TORCH = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# By device: sizes of products, of messages, of files.
_SIZES = {"cuda": (1024, 2048, 4096, 8192), "cpu": (64, 128, 256, 512, 1024)}
_MESSAGES = {"cuda": (2**16, 2**20, 2**24, 2**27, 2**29), "cpu": (2**12, 2**16, 2**18, 2**20, 2**22)}
_DISK = {"cuda": 2**30, "cpu": 2**25}


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.probe",
        description="Measure what the hosts of a cluster do, for the forecasts of `launcher plan`.",
        allow_abbrev=False,
    )
    options.launcher(command, only=("run-dir",))
    group = command.add_argument_group("measurement")
    group.add_argument(
        "--rounds", type=options.positive, default=5, metavar="N", help="how often each figure is measured"
    )
    group.add_argument(
        "--types", nargs="+", choices=TYPES, metavar="TYPE", help="of matrices; default: all, no fp16 on CPUs"
    )
    group.add_argument(
        "--sizes", nargs="+", type=options.positive, metavar="N", help="of matrices: rows and columns"
    )
    group.add_argument(
        "--messages", nargs="+", type=size, metavar="SIZE", help="of collectives, all ranks' data: 64K 1M"
    )
    group.add_argument(
        "--pairs",
        type=options.count,
        default=8,
        metavar="N",
        help="up to so many hosts every two are measured, of more only neighbours in a ring",
    )
    group.add_argument("--scratch", default="/tmp", metavar="DIR", help="a folder on each host's own disk")
    group.add_argument("--file", type=size, metavar="SIZE", help="that is written to measure a disk")
    return command


def measure(args: argparse.Namespace, this: Session) -> int:
    """Measure, write probe.json, and print what a person wants to know. Returns the exit code."""
    heartbeat.mine().phase(heartbeat.OTHER)  # how long a size takes is what is to be found out
    mine: dict[str, Any] = {"host": probe_hosts.facts(this.device, _peer(this))}
    mine["disks"] = this.together(lambda: _disks(args, this))
    mine["matrix"] = list(_matrices(args, this))
    mine["memory"] = probe_rates.memory(args.rounds, this.device)
    mine["transfers"] = probe_rates.transfers(args.rounds, this.device)
    messages = args.messages or _MESSAGES[this.device.type]
    mine["collectives"] = list(probe_links.collectives(sorted(messages), args.rounds, this))
    mine["pairs"] = list(probe_links.pairs(args.pairs, args.rounds, this))
    every = _gathered(mine, this)
    if this.rank == 0:
        slots, device = int(os.environ.get("LOCAL_WORLD_SIZE", this.world_size)), this.device.type
        found = probe_merging.merged(every, device, slots, _versions(device))
        metrics.write_atomically(this.run_dir / FILE, found)
        print(probe_merging.report(found))
        print(MARK + json.dumps(found, separators=(",", ":")), flush=True)
    return os.EX_OK


def _matrices(args: argparse.Namespace, this: Session) -> Iterator[dict[str, Any]]:
    """Each type and size, begun by all ranks at once; what takes long in one size is not tried in a larger one."""
    from torch import distributed

    cpu = this.device.type == "cpu"
    for kind in args.types or [t for t in TYPES if not (cpu and t == "fp16")]:
        for rows in sorted(args.sizes or _SIZES[this.device.type]):
            distributed.barrier()
            rates = probe_rates.matrix(_TORCH[kind], rows, args.rounds, this.device)
            yield {"type": kind, "size": rows, "rate": rates}
            slowest, _ = this.agree(float(2 * rows**3 / min(rates) > probe_rates.LONGEST))
            if slowest:
                break


def _disks(args: argparse.Namespace, this: Session) -> dict[str, dict[str, list[float]]]:
    """Of the first rank of each host. Raises Stop where scratch cannot be written."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return {}
    length = args.file or _DISK[this.device.type]
    folders = {"run folder": this.run_dir, "scratch": Path(args.scratch)}
    try:
        return {what: probe_rates.disk(f, length, min(3, args.rounds)) for what, f in folders.items()}
    except OSError as error:
        raise Stop(f"--scratch {args.scratch} or the run folder: {error.strerror}") from None


def _peer(this: Session) -> str:
    """The address of another host: the first one's, and for that the second's."""
    from torch import distributed

    slots = int(os.environ.get("LOCAL_WORLD_SIZE", this.world_size))
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    own: list[str] = [""] * this.world_size
    distributed.all_gather_object(own, probe_hosts.address(master))
    if this.rank >= slots:
        return master
    return own[slots] if this.world_size > slots else "127.0.0.1"


def _gathered(mine: dict[str, Any], this: Session) -> list[dict[str, Any]]:
    from torch import distributed

    every: list[Any] = [None] * this.world_size
    distributed.all_gather_object(every, mine)
    return every


def _versions(device: str) -> dict[str, str]:
    import deepspeed
    import torch

    nccl = {"nccl": ".".join(map(str, torch.cuda.nccl.version()))} if device == "cuda" else {}
    return {"torch": torch.__version__, "deepspeed": deepspeed.__version__, **nccl}


def main() -> None:
    """Run this rank; exits with BAD_INPUT where a folder cannot be written."""
    session.run(parser(), measure)


if __name__ == "__main__":
    main()

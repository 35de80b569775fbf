"""What preflight starts in every rank: one all-reduce over all of them, timed, in a line of JSON on stdout.

Owns the measurement and what only a process with torch can say (driver, prebuilt ops); judging is preflight.py's.
The figure is the bus bandwidth that NCCL's tests report, in GB/s:
https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.allreduce import FACTORS

if TYPE_CHECKING:
    import torch

# Large enough that latency does not count, small enough for a second on a gigabit network.
SIZE = {"cuda": 2**30, "cpu": 2**24}
ROUNDS = {"cuda": 5, "cpu": 2}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=float, required=True, help="seconds that a collective may take")
    parser.add_argument(
        "--floor", type=float, required=True, help="below it every pair of hosts is measured, GB/s"
    )
    args = parser.parse_args()
    measurement: dict[str, Any] = {"rank": int(os.environ["RANK"])}
    try:
        measure(measurement, args.floor, datetime.timedelta(seconds=args.limit))
    except (
        ModuleNotFoundError
    ) as error:  # says nothing of the host: a program of the user's own may need none
        measurement["absent"] = str(error.name)
    except Exception as error:
        measurement["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    print(json.dumps(measurement), flush=True)
    os._exit(0)  # the end of an interpreter with a broken process group can hang


def measure(measurement: dict[str, Any], floor: float, limit: datetime.timedelta) -> None:
    """Fill in `ops`, `driver`, `gb_per_s` (all ranks) and, if that is below `floor`, `pair_gb_per_s`."""
    import torch
    from torch import distributed

    measurement["ops"] = broken_ops() if os.environ["LOCAL_RANK"] == "0" else {}
    kind = "cpu" if os.environ.get("DS_ACCELERATOR") == "cpu" or not visible() else "cuda"
    if kind == "cuda":
        measurement["driver"] = driver(torch)
        if measurement["driver"]:
            return
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=limit)
    everyone = list(range(distributed.get_world_size()))
    measurement["gb_per_s"] = bus_bandwidth(kind, None, len(everyone))
    if measurement["gb_per_s"] < floor:
        measurement["pair_gb_per_s"] = with_neighbours(kind, limit)
    distributed.barrier()


def visible() -> bool:
    """Whether this process was given GPUs. Slurm says NoDevFiles where a job asked for none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return Path("/dev/nvidiactl").exists() if given is None else given not in {"", "NoDevFiles"}


def driver(torch: Any) -> str:
    """Why CUDA cannot be used here, or ''."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} of this image is built for CPUs"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"image has CUDA {torch.version.cuda}: {str(error).splitlines()[0]}"
    slots = int(os.environ["LOCAL_WORLD_SIZE"])
    count = torch.cuda.device_count()
    return f"{count} GPUs, and the job has {slots} slots" if count < slots else ""


def broken_ops() -> dict[str, str]:
    """Each prebuilt DeepSpeed op that cannot be imported, and why; none where ops are compiled on first use."""
    reasons: dict[str, str] = {}
    spec = importlib.util.find_spec("deepspeed")
    if spec is None or spec.origin is None:
        return reasons
    root = Path(spec.origin).parent
    for library in sorted(root.glob("ops/**/*_op*.so")):
        name = ".".join(
            ("deepspeed", *library.relative_to(root).parent.parts, library.name.partition(".")[0])
        )
        try:
            importlib.import_module(name)
        except Exception as error:
            reasons[name.rpartition(".")[2]] = str(error).splitlines()[0]
    return reasons


def bus_bandwidth(kind: str, group: Any, ranks: int) -> float:
    """GB/s of an all-reduce over `group`; the slowest of its ranks counts, so all of them get the same."""
    import torch
    from torch import distributed

    data: torch.Tensor = torch.ones(SIZE[kind] // 4, device=kind)
    distributed.all_reduce(data[:1024], group=group)  # connects
    seconds = torch.zeros(1, device=kind)
    began = time.perf_counter()
    for _ in range(ROUNDS[kind]):
        distributed.all_reduce(data, group=group)
    if kind == "cuda":
        torch.cuda.synchronize()
    seconds[0] = time.perf_counter() - began
    distributed.all_reduce(seconds, op=distributed.ReduceOp.MAX, group=group)
    return SIZE[kind] * ROUNDS[kind] / float(seconds) * FACTORS["all-reduce"](ranks) / 1e9


def with_neighbours(kind: str, limit: datetime.timedelta) -> float:
    """The better of the bandwidths with the host before and the host after: a slow host is slow with both."""
    from torch import distributed

    slots, mine = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["CROSS_RANK"])
    hosts, best = int(os.environ["CROSS_SIZE"]), 0.0
    ring = [(host, (host + 1) % hosts) for host in range(hosts if hosts > 2 else hosts - 1)]
    # Pairs that share no host are measured at the same time; the ring of an odd number needs a third turn.
    last = [ring.pop()] if len(ring) % 2 and len(ring) > 1 else []
    for turn in (ring[::2], ring[1::2], last):
        for pair in turn:
            ranks = [host * slots + slot for host in sorted(pair) for slot in range(slots)]
            if mine in pair:
                group = distributed.new_group(ranks, timeout=limit, use_local_synchronization=True)
                best = max(best, bus_bandwidth(kind, group, len(ranks)))
                # its name has the number of groups that a rank has, which must be the same on both hosts of a pair
                distributed.destroy_process_group(group)
    return best


if __name__ == "__main__":
    main()

"""What it costs to tell how far a rank is, to look at it, and to find the slow ones: microseconds of a processor.

PYTHONPATH=docker python -m tests.bench.heartbeat [--json]

`share` is what a rank itself spends of a step of STEP seconds, which should stay below 0.5%; what the
node entry spends is of a processor that no rank waits for. Without DeepSpeed a rank's stopwatch is not measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import heartbeat
import ranks
import slowness
import watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads import own_time

COUNT = 20_000
STEP = 0.1  # seconds: shorter than the steps of any model that needs more than one host
RANKS = 1024
WORDS = {
    "record": "a rank: its record of a step",
    "stopwatch": "a rank: how long a step is its own",
    "look": "node entry: a look at a rank, every two seconds",
    "pace": "node entry: a rank's pace, every second",
    "compare": f"first host: {RANKS} ranks compared, every {slowness.WINDOW} steps",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of heartbeats in microseconds of a processor.")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    share = (figures["record"] + figures.get("stopwatch", 0.0)) / 1e6 / STEP
    if args.json:
        print(json.dumps({**figures, "share": share}))
        return
    for name, figure in figures.items():
        print(f"{WORDS[name]:50} {figure:10.1f} µs")
    print(f"of a rank's step of {STEP} s: {share:.4%}")


def measure(folder: Path) -> dict[str, float]:
    """Microseconds by the keys of WORDS."""
    file = heartbeat.path(folder, 0)
    writer = heartbeat.Writer(file)
    writer.phase(heartbeat.FIRST)
    figures = {"record": each(lambda: writer.step(1, own=0.05))}
    if importlib.util.find_spec("deepspeed"):
        from workloads import own_time

        stopwatch = own_time.OwnTime(exchanges=False)
        figures["stopwatch"] = each(lambda: stopped(stopwatch))
    chance = random.Random(0)
    own = [tuple(chance.gauss(0.3, 0.01) for _ in range(slowness.WINDOW)) for _ in range(RANKS)]
    paces = {rank: slowness.Pace(slowness.WINDOW, 1.0, values) for rank, values in enumerate(own)}
    watched = watch.Watch(ranks.Ranks(numbers={os.getpid(): 0}), {}, folder, lambda _: None)
    figures["look"] = each(lambda: watched.look(time.monotonic()))
    figures["pace"] = each(lambda: slowness.read(str(folder), 0))
    figures["compare"] = each(lambda: slowness.compare(paces), 2)
    return figures


def each(work: Callable[[], object], count: int = COUNT) -> float:
    """Microseconds of a processor that `work` takes, of `count` times."""
    began = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - began) / count * 1e6


def stopped(watch: own_time.OwnTime) -> None:
    """What a step does with its stopwatch, with one micro batch."""
    watch.begin()
    watch.forward(ends=False)
    watch.forward(ends=True)
    watch.seconds()


if __name__ == "__main__":
    main()

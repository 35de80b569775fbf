"""What it costs a rank to tell how far it is, and a node entry to look: microseconds of a processor.

PYTHONPATH=docker python -m tests.bench.heartbeat [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from typing import TYPE_CHECKING

import heartbeat
import processes

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of heartbeats in microseconds of a processor.")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = heartbeat.path(folder, 0)
        writer = heartbeat.Writer(file)
        writer.phase(heartbeat.FIRST)
        began = time.process_time()
        for step in range(COUNT):
            writer.step(step)
        written = time.process_time()
        for _ in range(COUNT):
            look(file)
        looked = time.process_time()
    figures = {"record": (written - began) / COUNT * 1e6, "look": (looked - written) / COUNT * 1e6}
    if args.json:
        print(json.dumps(figures))
        return
    print(f"a record of a rank     {figures['record']:6.1f} µs")
    print(f"a look at a rank       {figures['look']:6.1f} µs")


def look(file: Path) -> None:
    """What the node entry does for each rank every two seconds."""
    heartbeat.read(file)
    processes.moved(os.getpid())


if __name__ == "__main__":
    main()

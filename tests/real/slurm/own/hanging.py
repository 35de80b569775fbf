"""Twelve steps in which ranks wait for each other; in the first attempt rank 1 is stopped in the fourth."""

import os
import signal
import time
from pathlib import Path

import workloads

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
run = Path(os.environ["RUN_DIR"])


def together(name: str) -> None:
    """Go on once all ranks are here."""
    (run / f"{name}-{RANK}").touch()
    while not all((run / f"{name}-{rank}").exists() for rank in range(WORLD)):
        time.sleep(0.05)


first = not (run / "stopped").exists()
together("first" if first else "second")
done = 0 if first else 3
for step in range(done + 1, 13):
    if first and RANK == 1 and step == 4:
        (run / "stopped").touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    while not first and step == 8 and not (run / "go-on").exists():
        time.sleep(0.05)
        workloads.heartbeat(7)
    together(f"{'first' if first else 'second'}-{step}")
    workloads.heartbeat(step)
    print("step", step, flush=True)

"""Ranks of real DeepSpeed that hang in six ways with ZeRO-2 and ZeRO-3, one after another.

Rank 1 hangs; the test looks, and lets it go on with a file `free-<scene>`. Until a file `quiet` is there a thread of
each rank shows signs of life, so that the last hang alone is found and ended.
"""

from __future__ import annotations

import collections
import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat
import workloads

if TYPE_CHECKING:
    from collections.abc import Callable

RANK = int(os.environ["RANK"])
run = Path(os.environ["RUN_DIR"])
scene = ""


def sleep() -> None:
    while not os.access(free(), os.F_OK):
        time.sleep(1)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fifo() -> None:
    os.mkfifo(free())
    Path(free()).read_bytes()


def loop() -> None:
    collections.deque(iter(functools.partial(os.access, free(), os.F_OK), True), maxlen=0)


def kernel() -> None:
    # its parent cannot be interrupted until the child has opened the pipe: as in a call of a dead file system
    os.mkfifo(free())
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 9, free(), os.O_RDONLY, 0)])


def other() -> None:
    (run / "last").touch()
    dist.barrier()


def free() -> str:
    return str(run / f"free-{scene}")


def live() -> None:
    while not (run / "quiet").exists():
        time.sleep(0.5)
        heartbeat.mine().alive()


if (run / "last").exists():  # started again
    sys.exit()
workloads.heartbeat(0)
threading.Thread(target=live, daemon=True).start()

import deepspeed  # noqa: E402
import torch  # noqa: E402
from torch import distributed as dist  # noqa: E402

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a minute of g++, for nothing here
deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
step = 0


def start(stage: int) -> Any:
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 1))
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": stage}}
    config["optimizer"] = {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}}
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]


def train(engine: Any, hang: Callable[[], None] | None = None) -> None:
    """One step, in which rank 1 hangs."""
    global scene, step
    step += 1
    if hang and RANK == 1:
        scene = f"{hang.__name__}-{engine.zero_optimization_stage()}"
        (run / f"at-{scene}").touch()
        hang()
    engine.backward(engine(torch.ones(1, 16)).sum())
    engine.step()
    workloads.heartbeat(step)


def wait_for(name: str, engine: Any) -> None:
    """Steps until all ranks have seen the file."""
    seen = torch.zeros(1)
    while not seen.item():
        train(engine)
        seen.fill_(float((run / name).exists()))
        dist.all_reduce(seen, dist.ReduceOp.MIN)


for stage in (2, 3):
    engine = start(stage)
    train(engine)
    for kind in (sleep, stop, fifo, loop, kernel):
        train(engine, kind)
    wait_for(f"profiled-{stage}", engine)
train(engine, other)

"""A rank whose disk is late: what a thread writes is taken once the next step is done. `python -m …late_disk CASES`.

CASES are cuts.py's, `pretrain` among them. A case with `limit` lets rank 1 write no file above so many bytes, as if its
disk were full; one with `signal_before` is signalled before it takes that step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat
from workloads import checkpoint_folder, digests, saver, session

from tests.docker.workloads import cuts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

LAST = 6  # step of every case
LIMIT = 120.0  # seconds until a test fails
_waits = threading.Event()


@dataclasses.dataclass(frozen=True)
class Signalled(cuts.Interruptible):
    """A session whose rank 1 gets a signal before it takes a step."""

    signal_before: int = 0

    def rehearse(self, args: argparse.Namespace, step: int, attempt: int) -> None:
        if step == self.signal_before and self.rank == 1:
            session._signals.append(signal.SIGUSR2)
        super().rehearse(args, step, attempt)


def late(write: Callable[..., digests.Written]) -> Callable[..., digests.Written]:
    """`write`, which in a thread waits until a step after the checkpoint's is done, or the rank waits for it."""

    def wait(writer: object, save: object, state: object, path: str) -> digests.Written:
        if threading.current_thread() is not threading.main_thread():
            step = checkpoint_folder.step_of(Path(path).relative_to(_checkpoints(path)).parts[0])
            end = time.monotonic() + LIMIT
            while heartbeat.mine()._step <= step and not _waits.is_set():
                assert time.monotonic() < end, "no step came after it"
                time.sleep(0.01)
        return write(writer, save, state, path)

    return wait


def told(wait: Callable[[saver.Saver], bool]) -> Callable[[saver.Saver], bool]:
    """`wait`, of which the disk knows."""

    def inner(by: saver.Saver) -> bool:
        _waits.set()
        try:
            return wait(by)
        finally:
            _waits.clear()

    return inner


def _checkpoints(path: str) -> Path:
    return next(p for p in Path(path).parents if p.name == checkpoint_folder.FOLDER)


@contextlib.contextmanager
def limited(case: dict[str, Any]) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if os.environ["RANK"] == "1":
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.get("limit", soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        session._signals.clear()


if __name__ == "__main__":
    digests.write = late(digests.write)
    saver.Saver._wait = told(saver.Saver._wait)  # type: ignore[assignment,method-assign]
    cuts.PROGRAMS["pretrain"] = "pretrain"
    cuts.main(Signalled, limited)

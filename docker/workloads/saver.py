"""When a run's checkpoints are written: while training waits, or by a thread of each rank while it goes on.

Owns the thread, of which there is one at most, and what the ranks tell each other of it: through the store by which
they met (waiting.py), as a collective of a thread could get in the way of those of the steps. What is written is
writing.py's.

It is a thread and no process. What takes long runs without the interpreter's lock: write(2), fsync(2), xxhash and the
larger part of torch.save (torch/csrc/jit/python/init.cpp). A fork of a process that has threads and a CUDA context may
not use them (https://docs.pytorch.org/docs/stable/notes/multiprocessing.html); a new interpreter needs memory of its
own, and outlives a rank that is killed. And what a thread writes the kernel counts as the rank's, by which the node
entry sees that a rank that waits for it advances (pace.py).
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import heartbeat

from workloads import session, snapshot, waiting
from workloads.session import Stop
from workloads.writing import Part, Writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from workloads import metrics
    from workloads.session import Session

LIMIT = 24 * 60.0  # minutes
LOOK = 0.05  # seconds between looks for the parts of other ranks
_calls = itertools.count()  # the same on every rank, as of a collective


class Checkpoint(NamedTuple):
    """One that is being written; `complete` is given the parts of all ranks, on rank 0.

    Training stood still for `seconds` until `ended` (Unix time). `began` is of the monotonic clock.
    """

    writing: Writing
    step: int
    complete: Callable[[list[Part]], None]
    began: float
    seconds: float = 0.0
    ended: float = 0.0


class Saver:
    """Has this rank's checkpoints written; `saved` is the tag of the newest that is known to be complete."""

    def __init__(
        self, this: Session, log: metrics.Log, *, goes_on: bool = False, saved: str | None = None
    ) -> None:
        """`goes_on`: training does, while a checkpoint is written."""
        self.this, self.saved, self._log = this, saved, log
        self._copies = snapshot.Copies(this.device) if goes_on else None
        self._thread: threading.Thread | None = None
        self._stop: Stop | None = None  # that the thread ended with
        self._tag, self._step = saved, 0  # of what it writes
        session.at_common_end.callback(self._join)

    @contextlib.contextmanager
    def checkpoint(self, path: Path, step: int, complete: Callable[[list[Part]], None]) -> Iterator[Writing]:
        """Inside, this rank writes its part of a checkpoint. All ranks call it; `complete` may raise Stop.

        Raises that Stop on every rank; where training goes on, the next checkpoint or `settle` does, after which the
        ranks look when a step has ended.
        """
        began = time.monotonic()
        self._wait()
        now = Checkpoint(Writing(path, self.this.rank, self._copies), step, complete, began)
        yield now.writing
        if self._copies is None:
            self._finish(now)
            return
        self._copies.wait()
        now = now._replace(seconds=time.monotonic() - began, ended=time.time())
        self._tag, self._step, self._stop = path.name, step, None
        self._thread = threading.Thread(target=self._behind, args=(now, next(_calls)), daemon=True)
        self._thread.start()

    def settle(self) -> str | None:
        """Wait until what is being written is complete; returns `saved`. All ranks call it.

        Raises Stop on every rank when it could not be completed.
        """
        began, step = time.monotonic(), self._step
        if self._wait():
            self._log.event("waited", step, seconds=time.monotonic() - began)
        return self.saved

    def _wait(self) -> bool:
        """`settle`, and whether there was anything to wait for."""
        if self._thread is None:
            return False
        with heartbeat.mine().during(heartbeat.CHECKPOINT):
            try:
                self.saved = waiting.first(self.this, self._outcome, LIMIT, "writing a checkpoint")
            finally:
                self._join()
                self._thread = None
                session.troubles.clear()  # they are told
        return True

    def _finish(self, now: Checkpoint) -> None:
        """Complete a checkpoint that every rank has written."""
        from torch import distributed

        parts: list[Any] = [None] * self.this.world_size
        distributed.all_gather_object(parts, now.writing.part)
        self.this.first(lambda: now.complete(parts))
        self.saved = now.writing.path.name
        seconds = time.monotonic() - now.began
        self._log.event("checkpoint", now.step, tag=self.saved, seconds=seconds)
        self._log.say(f"checkpoint {self.saved} saved in {seconds:.1f} s")

    def _behind(self, now: Checkpoint, call: int) -> None:
        """The thread: write, tell the others, and on rank 0 complete what all have written."""
        try:
            now.writing.rest()
            parts = self._exchange(now.writing.part, call)
            if parts:
                now.complete(parts)
                self._tell(now)
        except Stop as stop:
            self._stop = stop
        except Exception as error:
            traceback.print_exc()
            self._stop = Stop(f"{type(error).__name__}: {error}", 1)
        finally:
            assert self._copies is not None
            self._copies.give_back()
        if self._stop or now.writing.part.failures:
            session.troubles.append(f"checkpoint {now.writing.path.name}")

    def _exchange(self, part: Part, call: int) -> list[Part]:
        """The parts of all ranks, on rank 0, once each has told its own."""
        from torch.distributed import distributed_c10d

        store = distributed_c10d._get_default_store()
        keys = [f"saver/{call}/{rank}" for rank in range(self.this.world_size)]
        if self.this.rank:
            store.set(keys[self.this.rank], pickle.dumps(part))
            return []
        parts = [part]
        for key in keys[1:]:
            while not store.check([key]):
                time.sleep(LOOK)
            parts.append(pickle.loads(store.get(key)))
            store.delete_key(key)
        return parts

    def _tell(self, now: Checkpoint) -> None:
        tag, whole = now.writing.path.name, time.monotonic() - now.began
        figures = {"seconds": now.seconds, "paused": now.ended, "written": whole}
        self._log.event("checkpoint", now.step, tag=tag, **figures)
        self._log.say(
            f"checkpoint {tag} saved in {whole:.1f} s, training waited {now.seconds:.1f} s of these"
        )

    def _outcome(self) -> str | None:
        """The tag that the thread of rank 0 has completed. Raises the Stop that it ended with."""
        self._join()
        if self._stop is not None:
            raise self._stop
        return self._tag

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

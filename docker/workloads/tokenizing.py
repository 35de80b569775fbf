"""The shards of a text made by several processes, of this host and of others that see the same folder.

Owns the processes of this host; which shard is whose is said by claims.py, how one is written by shard_writer.py. A
process that is killed leaves nothing but a half file and a claim, which the next one passes over.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from typing import TYPE_CHECKING, NamedTuple

from ending import SAVED

from workloads import claims, session, shard_writer
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from workloads.cutting import Shard
    from workloads.encoding import Encoder

LOOK = 0.5  # seconds between looks at the processes, and at what others do
PARALLEL = "TOKENIZERS_PARALLELISM"  # of tokenizers' own threads


class Work(NamedTuple):
    """What is to be made, and where."""

    folder: Path
    shards: list[Shard]
    encoder: Encoder

    def missing(self) -> list[Shard]:
        """The shards that are not there yet."""
        there = {entry.name for entry in os.scandir(self.folder)}
        return [shard for shard in self.shards if f"{shard.name}.idx" not in there]


def make(work: Work, processes: int, look: Callable[[], None]) -> None:
    """Make the missing shards, or wait until others have; `look` is called at least once a second.

    Raises Stop for bad sources, after a signal, and what `look` raises.
    """
    missing = work.missing()
    count = min(processes, len(missing))
    look()
    with _threads(processes if count <= 1 else 1):
        if count <= 1:
            _loop(work, _Beat(look))
        else:
            _spawned(work, count, look)


class _Beat:
    """What a process does every now and then while it works."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look, self._last = look, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last >= LOOK:
            self._last = time.monotonic()
            stop_if_asked()
            self._look()


def stop_if_asked() -> None:
    """Raise Stop when this process got a signal to stop."""
    if name := session.asked_to_stop():
        raise Stop(
            f"stopped by {name} while tokenizing: run it again to go on with the missing shards", SAVED
        )


def _loop(work: Work, beat: Callable[[], None]) -> None:
    """Make one shard after the other until all are there, by whomever."""
    watch = claims.Watch()
    while missing := work.missing():
        claimed = False
        for shard in missing:
            claim = watch.claim(work.folder / f"{shard.name}{claims.SUFFIX}")
            if claim is None:
                continue
            claimed = True
            try:
                if not shard_writer.whole(work.folder, shard.name):
                    shard_writer.write(work.folder, shard, work.encoder, _both(claim, beat))
            except FileNotFoundError:
                # another process that took this one for dead has written the shard, and tidied up
                if not shard_writer.whole(work.folder, shard.name):
                    raise
            finally:
                claim.release()
        if not claimed:
            time.sleep(LOOK / 2)
            beat()


def _both(claim: claims.Claim, beat: Callable[[], None]) -> Callable[[int], None]:
    def touch(done: int) -> None:
        claim.beat(done)
        beat()

    return touch


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let tokenizers use threads of its own where there is one process for several cores."""
    before = os.environ.get(PARALLEL)
    os.environ[PARALLEL] = "true" if count > 1 else "false"
    try:
        yield
    finally:
        os.environ.pop(PARALLEL) if before is None else os.environ.update({PARALLEL: before})


def _spawned(work: Work, count: int, look: Callable[[], None]) -> None:
    import multiprocessing
    from multiprocessing.connection import wait

    # new interpreters: a rank has threads and open connections that a fork would share
    context = multiprocessing.get_context("spawn")
    running = []
    try:
        for _ in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_process, args=(work, os.getpid(), sender), daemon=True)
            process.start()
            sender.close()
            running.append((process, receiver))
        while running:
            wait([process.sentinel for process, _ in running], LOOK)
            stop_if_asked()  # first: the signal may have come to processes that did not ignore it yet
            ended = [pair for pair in running if pair[0].exitcode is not None]
            for process, receiver in ended:
                _check(process, receiver)
            running = [pair for pair in running if pair not in ended]
            look()
    finally:
        for process, receiver in running:
            process.kill()
            process.join()
            receiver.close()


def _check(process: BaseProcess, receiver: Connection) -> None:
    """Raise what a process has sent, or that it was killed."""
    if receiver.poll():
        with contextlib.suppress(EOFError):
            raise receiver.recv()
    if process.exitcode:
        how = f"was killed by signal {-process.exitcode}" if process.exitcode < 0 else "failed"
        more = ": the host may be out of memory, use fewer --processes" if process.exitcode == -9 else ""
        raise Stop(f"a process that tokenizes {how}{more}", 1)


def _process(work: Work, parent: int, sender: Connection) -> None:
    """The life of a process that tokenizes: it ends when its parent does."""
    for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides

    def beat() -> None:
        if os.getppid() != parent:
            os._exit(1)

    try:
        _loop(work, beat)
    except Stop as stop:
        sender.send(stop)
    except OSError as error:
        sender.send(Stop(str(error), 1))
    except Exception as error:
        traceback.print_exc()
        sender.send(Stop(f"{type(error).__name__}: {error}", 1))

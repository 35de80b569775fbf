"""Ranks that wait for long work of one of them, without a collective, whose time limit would end the run.

The answer travels through the store by which the ranks met (torch.distributed's TCPStore): it belongs to this attempt
alone and reaches every host. Waiting has a limit of its own.
"""

from __future__ import annotations

import itertools
import os
import pickle
import time
import traceback
from typing import TYPE_CHECKING, Any, TypeVar

from ending import BAD_INPUT, NO_CHECKPOINT

from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads.session import Session

T = TypeVar("T")
GRACE = 60.0  # seconds that the working rank gets to say itself that it is late
DATA = "--data-wait"
SHORTEST, LONGEST = 0.02, 1.0  # seconds between looks
_calls = itertools.count()  # the same on every rank, as of a collective


def first(session: Session, work: Callable[[], T], minutes: float, what: str = DATA) -> T:
    """What `work` returns on rank 0, on every rank; what it raises stops every rank. All ranks call it.

    `what` takes so long, for the message of a rank that waits above the limit.
    """
    return _led(session, [0], lambda _: work(), minutes, what=what)


def gathered(session: Session, work: Callable[[], T], minutes: float, what: str) -> list[T]:
    """What `work` returns on each rank, in their order, on every rank; what it raises stops every rank."""
    from torch.distributed import distributed_c10d

    store, call = distributed_c10d._get_default_store(), next(_calls)
    keys = [f"workloads/{call}/of-{rank}" for rank in range(session.world_size)]
    store.set(keys[session.rank], pickle.dumps(_outcome(work)))

    def collected() -> list[T]:
        end, pause, answers = time.monotonic() + 60 * minutes, SHORTEST, []
        for rank, key in enumerate(keys):
            while not store.check([key]):
                if time.monotonic() > end:
                    raise Stop(f"rank {rank} was not ready after {minutes:g} minutes ({what})")
                time.sleep(pause)
                pause = min(LONGEST, 1.5 * pause)
            answer, stop = pickle.loads(store.get(key))
            if stop is not None:
                raise stop
            answers.append(answer)
        return answers

    return first(session, collected, minutes, what)


def each_host(session: Session, work: Callable[[Callable[[], None]], T], minutes: float) -> T:
    """What `work` returns on the first rank of this host, once it has ended on every host. All ranks call it.

    `work` is given what it should call every now and then: it raises the Stop of another host.
    """
    from torch import distributed

    local: list[Any] = [None] * session.world_size
    distributed.all_gather_object(local, int(os.environ["LOCAL_RANK"]))
    return _led(session, [rank for rank, place in enumerate(local) if place == 0], work, minutes)


def _led(
    session: Session,
    leaders: list[int],
    work: Callable[[Callable[[], None]], T],
    minutes: float,
    *,
    what: str = DATA,
) -> T:
    """`leaders` are in order and begin with 0; a rank's is the last that is not above it."""
    from torch.distributed import distributed_c10d

    store, call = distributed_c10d._get_default_store(), next(_calls)
    keys = {leader: f"workloads/{call}/{leader}" for leader in leaders}
    if session.rank in keys:
        others = [key for leader, key in keys.items() if leader != session.rank]
        done = _outcome(lambda: work(lambda: _raise_any(store, others)))
        store.set(keys[session.rank], pickle.dumps(done))
    end, pause, answers = time.monotonic() + 60 * minutes + GRACE, SHORTEST, {}
    while waited_for := [leader for leader in leaders if leader not in answers]:
        for leader in waited_for:
            if store.check([keys[leader]]):
                answers[leader], stop = pickle.loads(store.get(keys[leader]))
                if stop is not None:
                    raise stop
                pause = 0.0
        if time.monotonic() > end:
            raise Stop(f"rank {waited_for[0]} was not ready after {minutes:g} minutes ({what})", BAD_INPUT)
        time.sleep(pause)
        pause = min(LONGEST, max(SHORTEST, 1.5 * pause))
    result: T = answers[max(leader for leader in leaders if leader <= session.rank)]
    return result


def _raise_any(store: Any, keys: list[str]) -> None:
    """Raise the Stop that a leader has ended with, if one of these has."""
    for key in keys:
        if store.check([key]):
            _, stop = pickle.loads(store.get(key))
            if stop is not None:
                raise stop


def _outcome(work: Callable[[], Any]) -> tuple[Any, Stop | None]:
    """What work returns, or the Stop that what it raises amounts to."""
    try:
        return work(), None
    except Stop as stop:
        return None, Stop(stop.message, stop.code)
    except OSError as error:  # the file system's, which names the file
        return None, Stop(str(error), NO_CHECKPOINT)
    except Exception as error:
        traceback.print_exc()
        return None, Stop(f"{type(error).__name__}: {error}", 1)

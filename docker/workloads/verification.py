"""Whether a checkpoint's files are as they were written: the ranks compare digests before any of them loads it.

Each file has a rank that reads it, and where that finds other bytes, a second one on another host: a checkpoint is not
given up for a host whose memory, network or cache is at fault. Answers travel through the store (waiting.py), as
reading may take longer than a collective may wait.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from ending import NO_CHECKPOINT

from workloads import digests, waiting
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workloads.checkpoint_folder import Checkpoint
    from workloads.session import Session

LIMIT = 24 * 60.0  # minutes


def damage(session: Session, checkpoint: Checkpoint) -> list[str]:
    """What is damaged of a checkpoint's files, a sentence each, on every rank; all ranks call it.

    Raises Stop on every rank when a file cannot be read, or not by every host: that says nothing of the checkpoint.
    """
    names = digests.share(checkpoint.digests, session.rank, session.world_size)
    found = waiting.gathered(session, lambda: _differing(checkpoint, names), LIMIT, "reading a checkpoint")
    if not any(differing for _, differing in found):
        return []
    half = session.world_size // 2  # so many ranks further on is another host, where there are several
    doubted = found[(session.rank - half) % session.world_size][1]
    again = waiting.gathered(session, lambda: _differing(checkpoint, doubted), LIMIT, "reading a checkpoint")
    for rank, (host, differing) in enumerate(found):
        other = (rank + half) % session.world_size
        if wrong := set(differing) - set(again[other][1]):
            raise Stop(
                f"{checkpoint.path}: rank {rank} on {host} reads other bytes of {min(wrong)} than rank {other} on "
                f"{again[other][0]}: a host is at fault, and not the checkpoint; start again without {host}",
                NO_CHECKPOINT,
            )
    return [
        f"{name} has other bytes than were written (found by rank {rank} on {host})"
        for rank, (host, differing) in enumerate(found)
        for name in differing
    ]


def _differing(checkpoint: Checkpoint, names: Sequence[str]) -> tuple[str, list[str]]:
    """(this host, the files that have other digests than they should). Raises Stop when one cannot be read."""
    host = socket.gethostname()
    try:
        return host, digests.differing(checkpoint.path, names, checkpoint.digests)
    except OSError as error:
        raise Stop(
            f"{error.filename or checkpoint.path} cannot be read on {host}: {error.strerror or error}",
            NO_CHECKPOINT,
        ) from error

"""The folder of a host's records: what its ranks tell (heartbeat.py), and their stacks (stacks.py).

Owns its life: on the host's own disk, for this user alone (0700), locked by its node entry and removed at the end. What
a killed node entry has left is removed by the next one that finds it unlocked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "heartbeat-"
_OLD = 3600.0  # seconds; a younger one may not be locked yet


@contextlib.contextmanager
def folder(scratch: Path | None) -> Iterator[dict[str, str]]:
    """The variable that ranks need, for a folder below `scratch` that goes when the context ends.

    The variable is empty where there is no room for one: then no rank tells anything.
    """
    _prune(scratch or Path(tempfile.gettempdir()))
    try:
        made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=scratch, ignore_cleanup_errors=True)
    except OSError:
        yield {heartbeat.VARIABLE: ""}
        return
    with made as name, contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            _lock(Path(name), held)
        yield {heartbeat.VARIABLE: name}


def _lock(path: Path, held: contextlib.ExitStack) -> None:
    """Lock it until `held` ends. Raises OSError where another process has it, or the file system has no locks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    held.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _prune(parent: Path) -> None:
    for left in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            status = left.lstat()
            if status.st_uid == os.geteuid() and time.time() - _newest(left) > _OLD:
                _lock(left, held)
                shutil.rmtree(left, ignore_errors=True)


def _newest(folder: Path) -> float:
    """When something in it changed last: ranks that run write into it."""
    return max(path.stat().st_mtime for path in (folder, *folder.glob("rank-*")))

"""fetch: files of a run's folder, wherever it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launcher.cli import streams
from launcher.cli.streams import say
from launcher.cli.verbs import again
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.cli import options

_MOST = 12  # files that are left out and named


def fetch(given: options.Fetch) -> int:
    run = again.single(given.run)
    from pathlib import Path

    from launcher import units
    from launcher.submission import fetching  # it reads YAML

    with streams.line() as tell:
        watch, dest = _Watch(tell), Path(given.dest)
        received = fetching.fetch(run, given.path, dest, force=given.force, say=say, watch=watch.told)
    for names, why in ((received.left_out, ""), (received.gone, ": deleted while it was read")):
        for name in names[:_MOST]:
            say(f"left out {name}{why}")
        if len(names) > _MOST:
            say(f"left out {len(names) - _MOST} more")
    there = f"; {len(received.same)} were there already" if received.same else ""
    say(
        f"{len(received.written)} files, {units.gigabytes(received.bytes)}, from {run.id} to {given.dest}{there}"
    )
    return OK


class _Watch:
    """Tells how much has come, how fast, and which file is next, a few times a second."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell, self.shown, self.began = tell, 0.0, time.monotonic()

    def told(self, come: int, total: int, path: str) -> None:
        from launcher import units

        now = time.monotonic()
        if now - self.shown < 0.2:
            return
        self.shown, rate = now, units.gigabytes(come / max(now - self.began, 1e-3))
        self.tell(f"{units.gigabytes(come)} of {units.gigabytes(total)}, {rate}/s  {path[-60:]}")

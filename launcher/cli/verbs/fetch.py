"""fetch: files of a run's folder, wherever it is."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import again
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from launcher.cli import options

_MOST = 12  # files that are left out and named


def fetch(given: options.Fetch) -> int:
    run = again.single(given.run)
    from pathlib import Path

    from launcher import units
    from launcher.submission import fetching  # it reads YAML

    watch = _Watch()
    try:
        received = fetching.fetch(
            run, given.path, Path(given.dest), force=given.force, say=say, watch=watch.told
        )
    finally:
        watch.clear()
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
    """On a terminal: one line of how much has come, how fast, and which file is next."""

    def __init__(self) -> None:
        self.shown, self.began = 0.0, time.monotonic()

    def told(self, come: int, total: int, path: str) -> None:
        from launcher import units

        now = time.monotonic()
        if not sys.stderr.isatty() or now - self.shown < 0.2:
            return
        rate = units.gigabytes(come / max(now - self.began, 1e-3))
        left = f"{units.gigabytes(come)} of {units.gigabytes(total)}, {rate}/s"
        sys.stderr.write(f"\r\x1b[K{left}  {path[-60:]}")
        sys.stderr.flush()
        self.shown = now

    def clear(self) -> None:
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

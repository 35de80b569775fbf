"""Runs that read a complete corpus, told by a file of each in its folder: `launcher data remove` leaves it alone then.

Owns these files. One is a claim (claims.py) that a thread touches, and goes with its process; what a killed one leaves
says so itself on its own host, and is old a minute later elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from workloads import claims, session

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".reader"
_PATIENCE = 5.0  # seconds for the last touch
_DAY = 86400.0  # seconds without a touch, after which nobody's clock can be that wrong


def hold(folder: Path) -> None:
    """Say that this process reads the corpus in `folder` until it ends; nothing in a folder that it may not write."""
    name = f"corpus.{socket.gethostname()}.{os.getpid()}.{os.urandom(4).hex()}{SUFFIX}"
    with contextlib.suppress(OSError):
        if os.environ.get("RANK", "0") == "0":
            _sweep(folder)
        if claim := claims.Watch().claim(folder / name):
            ended = threading.Event()
            thread = threading.Thread(target=_touch, args=(claim, ended), name=SUFFIX, daemon=True)
            thread.start()
            session.at_end.callback(_release, claim, ended, thread)


def _touch(claim: claims.Claim, ended: threading.Event) -> None:
    while not ended.wait(claims.BEAT):
        claim.beat()


def _release(claim: claims.Claim, ended: threading.Event, thread: threading.Thread) -> None:
    ended.set()
    thread.join(_PATIENCE)
    if thread.is_alive():  # a file system that does not answer keeps no rank from its end
        return
    with contextlib.suppress(OSError):
        claim.release()


def _sweep(folder: Path) -> None:
    """Remove what killed readers have left."""
    for path in folder.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if claims.is_gone(claims.read(path)) or time.time() - path.stat().st_mtime > _DAY:
                path.unlink()

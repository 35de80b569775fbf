"""Which folders of runs this user has, so that a run is found from any working folder.

Owns `$XDG_STATE_HOME/launcher/runs/` (default `~/.local/state`): a symbolic link to each folder of run folders. A link
is there at once or not at all, on network file systems too, so any number of commands may write.
https://specifications.freedesktop.org/basedir-spec/latest/
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def remember(runs: Path) -> None:
    """Add a folder of run folders. Nothing depends on it: where it cannot be written, nothing is said."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha256(os.fsencode(runs)).hexdigest()[:16]).symlink_to(runs)


def known() -> list[Path]:
    """The folders that were remembered and are there now, in the order of their names."""
    with contextlib.suppress(OSError, RuntimeError):
        return sorted(link.readlink() for link in _folder().iterdir() if link.is_symlink() and link.is_dir())
    return []


def _folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    # the specification has relative paths ignored
    base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    return base / "launcher" / "runs"

"""Whether a run has saved something to go on from, as its folder of checkpoints shows; standard library alone.

The workloads write `model` beside their checkpoints at every start, and `complete.json` into a tag last
(workloads/checkpoint_folder.py): a tag without it is broken or damaged. What a program of one's own writes counts as it
is, under any other name.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = "checkpoints"
_MODEL = "model"
_NONE = {_MODEL, "universal"}  # a copy of a checkpoint
_TAG = re.compile(r"(step|checkpoint)-\d+")  # the Trainer of a program of one's own has the same names


def since(folder: Path, time: float = 0.0) -> bool:
    """Whether `folder` holds a checkpoint that was written after `time`, Unix time; False where it cannot be read."""
    with contextlib.suppress(OSError):
        return any(written > time for written in _written(folder))
    return False


def _written(folder: Path) -> Iterator[float]:
    """When each checkpoint was. Raises OSError."""
    ours = (folder / _MODEL).is_dir()
    others = _NONE | {"latest"} if ours else _NONE  # the name of a tag; a program of one's own may call it so
    for path in folder.iterdir():
        if path.name in others or path.name.startswith("."):
            continue
        with contextlib.suppress(OSError):  # pruned meanwhile, or broken
            yield (path / "complete.json" if ours and _TAG.fullmatch(path.name) else path).stat().st_mtime

"""RUN_DIR/data leads to the cache of a run's tokens, wherever that is: what a later stage of a pipeline is told.

So `args.data-cache: $prepare/data` holds whether the cluster has a cache that runs share (DATA_CACHE) or not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

NAME: Final = "data"


def lead(run_dir: Path, cache: Path) -> None:
    """Make RUN_DIR/data a link to the cache, where it is not the cache itself and nothing else is there.

    Raises OSError where the run's folder cannot be written.
    """
    link, target = run_dir / NAME, Path(cache).absolute()
    if link.absolute() == target or (link.exists() and not link.is_symlink()):
        return
    if link.is_symlink():
        if link.readlink() == target:
            return
        link.unlink()  # of an earlier attempt, with another cache
    link.symlink_to(target, target_is_directory=True)

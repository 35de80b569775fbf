"""The checkpoints of a run as they lie on disk: listed, compared with their digests, deleted.

What makes one complete is docker/workloads/checkpoint_folder.py's, by which the ranks go too.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Literal

from launcher import entry
from launcher.errors import LauncherError, PlanError, RunNotFoundError
from launcher.namedtuple import NamedTuple
from launcher.runs import reading, record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from launcher.runs.record import Run


_MIRROR = "mirror.json"  # docker/workloads/mirroring.py
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


class Saved(NamedTuple):
    """A checkpoint of a run. `bytes`: on disk; `written`: Unix time; `reason`: why it is not complete.

    `checkpoint` is what the ranks would resume, of a complete one. `mirrored`: it is at the mirror too; `alone`: only
    there, and neither size nor time are known.
    """

    run: str
    tag: str
    folder: Path
    state: Literal["complete", "unfinished", "damaged"]
    step: int
    bytes: int
    written: float
    reason: str = ""
    checkpoint: Any = None
    mirrored: bool = False
    alone: bool = False


class Mirror(NamedTuple):
    """What a run's mirror held when its first rank looked last: the tags of complete checkpoints, newest first."""

    address: str
    tags: tuple[str, ...]


def listed(run: Run) -> list[Saved]:
    """The run's checkpoints, the newest first; none where its folder holds none. Raises PlanError without xxhash."""
    kept = entry.module("workloads.checkpoint_folder")
    folder = run.folder / kept.FOLDER
    there = mirror(run)
    with contextlib.suppress(OSError):  # not there, or closed
        found = [_saved(run.id, path) for path in kept.newest_first(folder) if not path.is_symlink()]
        return [saved._replace(mirrored=there is not None and saved.tag in there.tags) for saved in found]
    return []


def mirror(run: Run) -> Mirror | None:
    """What is at the run's mirror, by the file that its ranks keep; None where the run has no mirror."""
    with contextlib.suppress(*_UNREADABLE):
        told = json.loads(reading.text(run.folder / _MIRROR))
        return Mirror(str(told["address"]), tuple(map(str, told["tags"])))
    with contextlib.suppress(*_UNREADABLE, LauncherError):  # the folder was lost, and is another's copy
        address = record.read_json(run.folder / "plan.json")["job"]["checkpoint"]["mirror"]
        return Mirror(str(address), ()) if address else None
    return None


def choose(run: Run, step: int | None) -> Saved:
    """The complete checkpoint of this step, or the newest. Raises RunNotFoundError where there is none."""
    found = listed(run)
    complete = [saved for saved in found if saved.state == "complete"]
    for saved in complete:
        if step in (None, saved.step):
            return saved
    which = "complete checkpoint" if step is None else f"complete checkpoint of step {step}"
    steps = ", ".join(str(saved.step) for saved in complete)
    hint = (
        f"there are those of steps {steps}"
        if steps
        else f"`python -m launcher checkpoints {run.id}` lists them"
    )
    raise RunNotFoundError(f"{run.id} has no {which} in {run.folder}", hint=hint)


def verify(saved: Saved, reading: Callable[[str], None]) -> Saved:
    """The same after each byte of a complete one was read; `reading` is told the name of each file before.

    One whose files differ from their digests is damaged. Files of a checkpoint older than digests are only counted.
    """
    if saved.state != "complete":
        return saved
    digests, reasons = entry.module("workloads.digests"), []
    for name in saved.checkpoint.digests:
        reading(f"{saved.tag}/{name}")
        reasons += digests.damaged(saved.folder, [name], saved.checkpoint.digests)
    if not saved.checkpoint.digests:
        return saved._replace(reason="written before there were digests: sizes alone were compared")
    return saved._replace(state="damaged", reason="; ".join(reasons)) if reasons else saved


def prune(run: Run, keep: int, reading: Callable[[str], None]) -> list[Saved]:
    """Delete all but the newest `keep` complete checkpoints, and broken ones before those; returns what is gone.

    Those that stay are verified first. Raises PlanError where one of them is damaged, which deletes nothing, and where
    something could not be deleted.
    """
    kept, before = entry.module("workloads.checkpoint_folder"), listed(run)
    stay = [saved for saved in before if saved.state == "complete"][:keep]
    damaged = [saved for saved in (verify(saved, reading) for saved in stay) if saved.state == "damaged"]
    if damaged:
        raise PlanError(
            *(f"{saved.tag} of {saved.run} is damaged: {saved.reason}" for saved in damaged),
            hint="nothing was deleted: the ones before it may be needed",
        )
    kept.prune(run.folder / kept.FOLDER, keep)
    gone = [saved for saved in before if not saved.folder.exists()]
    complete = [saved for saved in before if saved.state == "complete"]
    if left := [saved.tag for saved in complete[keep:] if saved.folder.exists()]:
        raise PlanError(
            f"{', '.join(left)} of {run.folder} cannot be deleted whole", hint="look at its permissions"
        )
    return gone


def _saved(run: str, path: Path) -> Saved:
    kept = entry.module("workloads.checkpoint_folder")
    size, newest = _measured(path)
    saved = Saved(
        run=run,
        tag=path.name,
        folder=path,
        state="complete",
        step=kept.step_of(path.name),
        bytes=size,
        written=newest,
    )
    try:
        return saved._replace(checkpoint=kept.read(path))
    except (OSError, ValueError) as error:
        unmarked = not (path / kept.MARKER).exists() and not (path / kept.DAMAGED).exists()
        return saved._replace(state="unfinished" if unmarked else "damaged", reason=str(error))


def _measured(folder: Path) -> tuple[int, float]:
    """(bytes of its files, the newest file's time)."""
    size, newest = 0, 0.0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            status = file.lstat()
            size, newest = size + status.st_size * (not file.is_dir()), max(newest, status.st_mtime)
    return size, newest

"""Files of a run's folder, wherever it is, into a folder of one's own, compared with the digests of checkpoints.

Owns the order; the line to the folder is its scheduler's, what may be written is runs/receiving.py's.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from launcher import entry, schedulers
from launcher.errors import PlanError, Problem, RunNotFoundError, SpecError
from launcher.runs import receiving
from launcher.submission import rerun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.runs.receiving import Received
    from launcher.runs.record import Run


def fetch(
    run: Run,
    path: str,
    dest: Path,
    *,
    force: bool,
    say: Callable[[str], None],
    watch: Callable[[int, int, str], None],
) -> Received:
    """Bring what is at `path` in the folder of `run` into `dest`: a file, or all that is in a folder.

    `say` is told what takes long, `watch` the bytes that have come, all that will, and the file. Raises as
    `receiving.receive` does, SpecError for a path that is not in the run folder, PlanError for a checkpoint that is not
    as its complete.json says.
    """
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts:
        raise SpecError(
            f"PATH {path} is not below the run folder", hint="such as export/, or . for all of it"
        )
    if not run.native_id:
        raise RunNotFoundError(f"{run.id} was not submitted yet", hint="it has no files of its own")
    plan = rerun.plan_of(run)._replace(id=run.id)  # its own folder, not that of the plan's first run
    with schedulers.sender(run, plan, path, say) as line:
        received = receiving.receive(line, dest, path=path, force=force, watch=watch)
    require_sound(dest, [*received.written, *received.same], say)
    return received


def require_sound(dest: Path, paths: Sequence[str], say: Callable[[str], None]) -> None:
    """Raise PlanError for checkpoints among `paths` that are not as complete.json says."""
    kept, digests = entry.module("workloads.checkpoint_folder"), entry.module("workloads.digests")
    wrong: list[Problem] = []
    for path in paths:
        folder = dest / PurePosixPath(path).parent
        if PurePosixPath(path).name != kept.MARKER or len(paths) == 1:  # the marker alone was asked for
            continue
        try:
            saved = kept.read(folder)
            wrong += [
                Problem(f"{folder}: {what}") for what in digests.damaged(folder, saved.digests, saved.digests)
            ]
        except ModuleNotFoundError:
            say(f"note: {folder} is not compared with its digests: this Python has no xxhash")
        except (OSError, ValueError) as error:
            wrong.append(Problem(f"{folder}: {error}"))
    if wrong:
        hint = "fetch it again with --force; if it is so on the claim too, `resume` takes the one before"
        raise PlanError(*wrong, Problem("what came is damaged, or was when it was saved", hint))

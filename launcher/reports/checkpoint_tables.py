"""What `checkpoints` prints: a table, and machine-readable output (README.md has the keys)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import units
from launcher.reports import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.runs.checkpoints import Saved

_HEAD = ("CHECKPOINT", "STATE", "STEP", "TOKENS", "SIZE", "WRITTEN", "")


def table(found: Sequence[Saved], several: bool) -> str:
    """A line a checkpoint; with the run, where they are of several."""
    rows: list[tuple[str, ...]] = [
        (
            saved.tag,
            saved.state,
            f"{saved.step:,}",
            f"{saved.checkpoint.progress.tokens:,}" if saved.checkpoint else "-",
            "-" if saved.alone else units.gigabytes(saved.bytes),
            "-" if saved.alone else tables.moment(saved.written),
            saved.reason,
        )
        for saved in found
    ]
    head: tuple[str, ...] = _HEAD
    if any(saved.mirrored for saved in found):
        head = (*_HEAD[:-1], "WHERE", "")
        places = [_place(saved) for saved in found]
        rows = [(*row[:-1], place, row[-1]) for row, place in zip(rows, places, strict=True)]
    if several:
        rows = [(saved.run, *row) for saved, row in zip(found, rows, strict=True)]
    return tables.table(rows, (("RUN", *head) if several else head))


def _place(saved: Saved) -> str:
    if saved.alone:
        return "mirror"
    return "run folder, mirror" if saved.mirrored else "run folder"


def data(saved: Saved) -> dict[str, Any]:
    """A checkpoint, machine-readable."""
    known = saved.checkpoint
    return {
        "run": saved.run,
        "tag": saved.tag,
        "folder": None if saved.alone else str(saved.folder),
        "mirrored": saved.mirrored,
        "state": saved.state,
        "reason": saved.reason,
        "step": saved.step,
        "samples": known.progress.samples if known else None,
        "tokens": known.progress.tokens if known else None,
        "bytes": None if saved.alone else saved.bytes,
        "written": None if saved.alone else saved.written,
        "model": known.identity.model if known else None,
        "world_size": known.identity.world_size if known else None,
        "zero_stage": known.identity.zero_stage if known else None,
        "precision": known.identity.precision if known else None,
        "digests": len(known.digests) if known else None,
    }

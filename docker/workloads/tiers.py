"""Where a run begins: at the newest of what hosts have on their own disks, the run's folder has, and the mirror has.

Owns the choice. The nearest holds where several are equally new: own disks (own_disk.py) before the folder
(checkpoints.py) before the mirror (mirroring.py).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from workloads import (
    checkpoint_folder,
    checkpoints,
    keeping,
    mirror_owner,
    mirroring,
    own_disk,
    verification,
    waiting,
)
from workloads.session import Stop

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from workloads.checkpoint_folder import Checkpoint, Identity
    from workloads.metrics import Log
    from workloads.session import Session


def check(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """Raise Stop for a place where states of a run with this DeepSpeed config are not kept."""
    for place, what in keeping.unsaved(config).items():
        if vars(args).get(f"checkpoint_{place}"):
            raise Stop(f"--checkpoint-{place}: {what} are not kept there; leave it out")


def nearest(
    session: Session, args: argparse.Namespace, identity: Identity, log: Log, *, converts: bool | str = False
) -> Checkpoint | None:
    """The checkpoint to start from, or None; all ranks call it, once, before anything is loaded.

    From then on what is saved is uploaded too, where there is a mirror. Raises Stop as checkpoints.find does, and
    where the mirror cannot be used.
    """
    folder, address = session.run_dir / checkpoint_folder.FOLDER, args.checkpoint_mirror
    place = own_disk.asked(session, args)
    local = own_disk.newest(session, place, identity, log) if place else None
    above = local.progress.step if local else -1
    if address:
        fetch = functools.partial(_restored, args, session.run_dir, above)
        waiting.first(session, fetch, verification.LIMIT, "the mirror of checkpoints")
    if local and session.first(lambda: _newest(folder)) <= above:
        checkpoint: Checkpoint | None = local
    else:
        checkpoint = checkpoints.find(session, args.resume, identity, log, converts=converts)
    if address and session.rank == 0:
        mirroring.start(address, session.run_dir, args.checkpoint_keep, _owner(args, session.run_dir))
    return checkpoint


def _restored(args: argparse.Namespace, run_dir: Path, above: int) -> None:
    here = max(above, _newest(run_dir / checkpoint_folder.FOLDER))
    mirroring.restore(args.checkpoint_mirror, run_dir, here, _owner(args, run_dir))


def _owner(args: argparse.Namespace, run_dir: Path) -> str:
    return args.checkpoint_owner or mirror_owner.of_process(run_dir)


def _newest(folder: Path) -> int:
    """The step of the newest complete checkpoint of a folder; -1 without one."""
    found = checkpoint_folder.newest(folder)
    return found.progress.step if found else -1

"""Checkpoints on each host's own disk, between the shared ones: for ranks that start again on the same hosts.

Owns `<scratch>/deepspeed-checkpoints-<uid>/<run>/node-<N>/`, this user's alone (0700), with what the ranks of that host
read back and a complete.json of these files; its `set` is the same on all hosts that wrote together. The newest that
every host has whole is resumed. The folder is removed when the run is done, and after 30 days without use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat
from ending import BAD_INPUT

from workloads import checkpoint_folder, checkpoints, digests, session, verification, waiting, writing
from workloads.session import Stop
from workloads.writing import Writing

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from deepspeed import DeepSpeedEngine

    from workloads.checkpoint_folder import Checkpoint, Identity
    from workloads.digests import Written
    from workloads.metrics import Log
    from workloads.session import Session
    from workloads.writing import Part

SET = "set"


@dataclass(frozen=True)
class Place:
    """The run's folder on this host's own disk, and this rank's place among those of the host."""

    folder: Path
    local_rank: int
    ranks: int
    keep: int
    every: int

    @property
    def leads(self) -> bool:
        """Whether this rank looks after the folder for all of the host."""
        return self.local_rank == 0


_mine: Place | None = None
_told: set[str] = set()  # why nothing was written


def mine() -> Place | None:
    """The place that `use` has made; None where nothing is kept on own disks."""
    return _mine


def asked(this: Session, args: argparse.Namespace) -> Place | None:
    """The place that the options ask for; None where a workload has none, or a job asks for none."""
    global _mine
    _mine, given = None, vars(args)
    if scratch := given.get("checkpoint_local"):
        use(this, scratch, every=given["checkpoint_local_every"], keep=given["checkpoint_local_keep"])
    return _mine


def use(this: Session, scratch: str, *, every: int, keep: int) -> Place:
    """Keep checkpoints below a folder of this host's own disk; all ranks call it.

    Raises Stop on every rank when one host has no such folder that is this user's alone.
    """
    global _mine
    local_rank, ranks = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    root = Path(scratch) / f"deepspeed-checkpoints-{os.geteuid()}"
    of_run = root / this.run_dir.resolve().name
    name, host = f"node-{os.environ.get('CROSS_RANK', '0')}", socket.gethostname()
    folder = of_run / name
    place = Place(folder, local_rank, ranks, keep=keep, every=every)
    here = {other for other, where in _gathered(this, (name, host)) if where == host}
    this.together(lambda: _make(root, of_run, name, here) if place.leads else None)
    if place.leads:
        session.before_leaving.append(lambda code: _remove(folder) if code == os.EX_OK else None)
    _mine = place
    return place


def _make(root: Path, of_run: Path, name: str, here: set[str]) -> None:
    """Make this node's folder; those of nodes that this host was before, and which are not `here`, go."""
    import caches  # not for those who read options alone

    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            caches.enter(str(root), None, held)
        for old in root.iterdir():
            with contextlib.suppress(OSError):
                if old != of_run and time.time() - old.stat().st_mtime > caches.KEPT:
                    shutil.rmtree(old, ignore_errors=True)
        (of_run / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in of_run.glob("node-*"):
            if old.name not in here:
                shutil.rmtree(old, ignore_errors=True)
        os.utime(of_run)
    except OSError as error:
        raise Stop(
            f"checkpoint.local: {root} on {socket.gethostname()} cannot be used: {error.strerror or error}; "
            "name another folder of the host's own disk as the cluster's `scratch`",
            BAD_INPUT,
        ) from error


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # another host's is there
        folder.parent.rmdir()


@heartbeat.told(heartbeat.CHECKPOINT)
def save(
    engine: DeepSpeedEngine,
    this: Session,
    place: Place,
    tag: str,
    *,
    carried: Mapping[str, Any],
    write: Callable[[Path], object],
) -> list[str]:
    """Have `write` put what each host needs on its own disk, then delete all but the newest; all ranks call it.

    Training waits for it, also where it does not for others (saver.py), whose writing goes on meanwhile. Returns why it
    is not there, one reason a rank; the ones before are kept then, and nothing is raised.
    """
    path = place.folder / tag
    if place.leads:
        shutil.rmtree(path, ignore_errors=True)
    now = Writing(path, this.rank)
    with _by_host(engine), writing.observed(engine, now):
        now.guarded(write)(path)
    ranks: list[tuple[str, Part]] = _gathered(this, (str(place.folder), now.part))
    reasons = [part.failures[0] for _, part in ranks if part.failures]
    if not reasons:
        ours = [part.written for folder, part in ranks if folder == str(place.folder)]
        of_host = {name: file for files in ours for name, file in files.items()}
        known = {**carried, SET: digests.seal({"ranks": [part.written for _, part in ranks]})}
        reasons = [reason for reason in _gathered(this, _mark(place, path, known, of_host)) if reason]
    if place.leads:
        if reasons:
            shutil.rmtree(path, ignore_errors=True)
        else:  # every host has the new one
            checkpoint_folder.prune(place.folder, place.keep)
    # what is the same of the next one is said the same
    return [reason.replace(str(path), str(place.folder)) for reason in reasons]


def tell(log: Log, step: int, reasons: list[str], seconds: float) -> None:
    """Log that a checkpoint was written in so many seconds, or for which of the reasons it was not: each once."""
    if not reasons:
        log.event("own_disk", step, seconds=seconds)
    elif reasons[0] not in _told:
        _told.add(reasons[0])
        log.say(f"step {step} is not on the hosts' own disks, and training goes on: {reasons[0]}")


def _mark(place: Place, path: Path, carried: dict[str, Any], files: dict[str, Written]) -> str:
    """Write the host's marker; returns why it could not be."""
    if place.leads:
        try:
            checkpoint_folder.mark(path, carried, checkpoints.all_files(path, files))
        except OSError as error:
            return f"{socket.gethostname()}: {error}"
    return ""


@contextlib.contextmanager
def _by_host(engine: DeepSpeedEngine) -> Iterator[None]:
    """Have the first rank of each host write what ranks have in common, as `use_node_local_storage` does.

    https://www.deepspeed.ai/docs/config-json/#checkpoint-options; DeepSpeed's own is for all checkpoints of an engine.
    """
    before = engine._config.use_node_local_storage, engine.save_non_zero_checkpoint
    engine._config.use_node_local_storage = True
    engine.save_non_zero_checkpoint = before[1] or int(os.environ["LOCAL_RANK"]) == 0
    try:
        yield
    finally:
        engine._config.use_node_local_storage, engine.save_non_zero_checkpoint = before


def newest(this: Session, place: Place, identity: Identity, log: Log) -> Checkpoint | None:
    """The newest checkpoint that every host has on its own disk, whole and sound and of these ranks; all call it.

    One whose bytes differ from what was written is passed over, after a line.
    """
    passed: set[str] = set()
    limit, what = verification.LIMIT, "reading a checkpoint of the host's own disk"
    while True:
        held = waiting.gathered(
            this, lambda: _held(place, identity) if place.leads else None, limit, what=what
        )
        hosts = [tags for tags in held if tags is not None]
        common = {tag for tag, of in hosts[0].items() if all(tags.get(tag) == of for tags in hosts)} - passed
        if not common:
            return None
        tag = max(common, key=checkpoint_folder.step_of)
        found = waiting.gathered(this, lambda tag=tag: _damage(place, tag), limit, what=what)  # type: ignore[misc]
        if not any(reasons for _, reasons in found):
            return checkpoint_folder.read(place.folder / tag)
        passed.add(tag)
        host, reasons = next((host, reasons) for host, reasons in found if reasons)
        log.say(f"checkpoint {tag} on the hosts' own disks is passed over: {host}: {reasons[0]}")


def _held(place: Place, identity: Identity) -> dict[str, str]:
    """Tag → set of what this host has whole, and what fits the run."""
    found = {}
    for path in checkpoint_folder.newest_first(place.folder):
        with contextlib.suppress(OSError, ValueError):
            if checkpoints.refusal(checkpoint_folder.read(path), identity) is None:
                found[path.name] = str(checkpoint_folder.marker(path).get(SET))
    return found


def _damage(place: Place, tag: str) -> tuple[str, list[str]]:
    """(this host, what is wrong with those of the files that this rank compares)."""
    path = place.folder / tag
    try:
        known = checkpoint_folder.read(path).digests
    except (OSError, ValueError) as error:
        return socket.gethostname(), [str(error)]
    names = digests.share(known, place.local_rank, place.ranks)
    return socket.gethostname(), digests.damaged(path, names, known)


def _gathered(this: Session, value: Any) -> list[Any]:
    from torch import distributed

    values: list[Any] = [None] * this.world_size
    distributed.all_gather_object(values, value)
    return values

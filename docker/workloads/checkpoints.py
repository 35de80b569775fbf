"""Checkpoints of a run: written whole or not at all, and resumed from the newest that is sound.

Files are written and read by DeepSpeed, below the folder that is checkpoint_folder.py's. Before a checkpoint is resumed
each rank compares the digests of what it will read; one that is damaged is passed over for the one before. The state
that a checkpoint carries is the workload's.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat
from ending import NO_CHECKPOINT

from workloads import (
    architectures,
    checkpoint_folder,
    digests,
    engines,
    four_bit,
    metrics,
    mirroring,
    tokenizer,
    universal,
    verification,
    waiting,
)
from workloads.checkpoint_folder import Checkpoint, Identity, Progress
from workloads.session import Stop
from workloads.writing import first_failure, observed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.digests import Written
    from workloads.saver import Saver
    from workloads.session import Session
    from workloads.writing import Part

READ_BACK = 2**26  # bytes


def identity(
    name: str,
    model: PreTrainedModel,
    by: PreTrainedTokenizerBase,
    *,
    config: dict[str, Any],
    world_size: int,
) -> Identity:
    """The identity of a run that trains this model, called `name`, with this tokenizer and DeepSpeed config."""
    return Identity(
        model=f"{name} ({architectures.parameters(model):,} parameters)",
        model_fingerprint=architectures.fingerprint(model),
        tokenizer=f"{by.name_or_path} ({len(by):,} tokens)",
        tokenizer_fingerprint=tokenizer.fingerprint(by),
        world_size=world_size,
        zero_stage=engines.stage(config),
        precision=engines.precision(config),
    )


def describe(session: Session, model: PreTrainedModel, by: PreTrainedTokenizerBase) -> None:
    """Write beside the checkpoints what is needed to build the model again from any of them (export.py).

    Where that fails, the run goes on without it, after a line.
    """
    if session.rank:
        return
    try:
        architectures.describe(
            model, by, session.run_dir / checkpoint_folder.FOLDER / checkpoint_folder.MODEL
        )
    except Exception as error:  # of any library that writes a configuration of the user's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"checkpoints of this run cannot be exported later: {reason}", flush=True)


def tag(step: int) -> str:
    """The name of the checkpoint of a step."""
    return f"step-{step:08d}"


def carried(progress: Progress, identity: Identity) -> dict[str, Any]:
    """What each checkpoint says of itself, in complete.json and in DeepSpeed's files."""
    return {"progress": asdict(progress), "identity": asdict(identity)}


@heartbeat.told(heartbeat.CHECKPOINT)
def save(
    engine: DeepSpeedEngine,
    saver: Saver,
    progress: Progress,
    identity: Identity,
    *,
    keep: int,
    others: Mapping[str, DeepSpeedEngine] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write a complete checkpoint, then delete all but the newest `keep`. All ranks call it.

    Engines beside the first go to folders in it, by their names; `more` is carried along for `load`.

    Raises Stop with NO_CHECKPOINT on every rank when any rank could not write (a full disk); the complete
    checkpoints before are untouched then. Where the saver lets training go on, the next call does, or its `settle`.
    """
    path = saver.this.run_dir / checkpoint_folder.FOLDER / tag(progress.step)
    always = carried(progress, identity)
    done = functools.partial(complete, path, always, keep=keep)
    with saver.checkpoint(path, progress.step, done) as writing:
        if saver.this.rank == 0:
            shutil.rmtree(path, ignore_errors=True)  # what is left of a broken one
        for name, one in {"": engine, **(others or {})}.items():
            with observed(one, writing):
                place = f"{path.name}/{name}".rstrip("/")
                state = {**always, **(more or {})}
                one.save_checkpoint(str(path.parent), tag=place, client_state=state, save_latest=False)


def complete(
    path: Path, carried: Mapping[str, Any], parts: Sequence[Part], *, keep: int, unknown: bool = False
) -> None:
    """Make a checkpoint complete that all ranks have written: this is when, and the only place where, it becomes so.

    Rank 0 calls it, in a thread of its own where training goes on: no collectives here. `unknown`: another program has
    written files that no part has. Raises Stop with NO_CHECKPOINT when a rank could not write its part, which deletes
    the checkpoint.
    """
    folder, tag = path.parent, path.name
    try:
        if failure := first_failure(parts):
            raise OSError(failure)
        files = {name: file for part in parts for name, file in part.written.items()}
        elsewhere = [name for name in files if not (path / name).exists()]
        if elsewhere:
            raise OSError(
                f"{elsewhere[0]} is on another host only: the run's folder must be shared by all hosts"
            )
        if unknown:
            files = all_files(path, files)
        checkpoint_folder.mark(path, carried, files)
        if not unknown:
            _point_latest(folder, tag)
        shutil.rmtree(folder / universal.FOLDER, ignore_errors=True)  # this one fits
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise Stop(_cannot_write(folder, tag, error), NO_CHECKPOINT) from error
    _completed(path, keep)


def find(
    session: Session, older: str | None, identity: Identity, log: metrics.Log, *, converts: bool | str = False
) -> Checkpoint | None:
    """The checkpoint to start from: the newest sound one of the run, else of the older run's folder, else none.

    Those that are passed over are logged: unfinished ones, and those of which a rank finds a file damaged. One of
    another number of ranks is converted first, where the workload `converts`; words say why it does not. Raises Stop on
    every rank when the one found does not fit this run, or when the older run has none.
    """
    distrusted: set[Path] = set()
    told: set[str] = set()

    def broken(tag: str, reason: str) -> None:
        if tag in told:
            return
        told.add(tag)
        log.say(f"checkpoint {tag} is passed over: {reason}")
        log.event("skipped", checkpoint_folder.step_of(tag), tag=tag, reason=reason)

    def search() -> Checkpoint | None:
        checkpoint = checkpoint_folder.newest(session.run_dir / checkpoint_folder.FOLDER, broken, distrusted)
        if checkpoint is None and older:
            checkpoint = universal.read(Path(older)) or checkpoint_folder.newest(
                Path(older), broken, distrusted
            )
            if checkpoint is None:
                raise Stop(f"--resume {older}: there is no complete checkpoint in this folder")
        return checkpoint and _fitting(checkpoint, identity, converts)

    def converted(checkpoint: Checkpoint) -> Checkpoint:
        folder = session.run_dir / checkpoint_folder.FOLDER
        return universal.convert(checkpoint, folder, log) if parted(checkpoint, identity) else checkpoint

    while (checkpoint := session.first(search)) is not None:
        reasons = verification.damage(session, checkpoint)
        if not reasons:
            work = functools.partial(converted, checkpoint)
            return waiting.first(session, work, universal.LIMIT / 60, "converting a checkpoint")
        distrusted.add(checkpoint.path)
        broken(checkpoint.tag, "; ".join(reasons))
        if checkpoint.path.parent == session.run_dir / checkpoint_folder.FOLDER:
            session.first(functools.partial(checkpoint_folder.distrust, checkpoint.path, reasons))
    session.first(functools.partial(_require_none_damaged, session.run_dir / checkpoint_folder.FOLDER))
    return None


def _require_none_damaged(folder: Path) -> None:
    """Raise Stop where there are damaged checkpoints and no sound one: nothing is begun anew in silence."""
    damaged = sorted(path.parent.name for path in folder.glob(f"*/{checkpoint_folder.DAMAGED}"))
    if damaged:
        raise Stop(
            f"{folder} has no sound checkpoint ({', '.join(damaged)}: see {checkpoint_folder.DAMAGED}). Submit the job "
            "as a new run to begin anew, or with checkpoint.resume to go on from another",
            NO_CHECKPOINT,
        )


def _fitting(checkpoint: Checkpoint, identity: Identity, converts: bool | str) -> Checkpoint:
    """The checkpoint. Raises Stop where it cannot continue in a run of this identity."""
    if reason := refusal(checkpoint, identity, converts):
        raise Stop(reason)
    return checkpoint


def parted(checkpoint: Checkpoint, identity: Identity) -> bool:
    """Whether a checkpoint has its states in as many parts as ranks, and the run has another number of these."""
    theirs = checkpoint.identity
    return not checkpoint.universal and theirs.zero_stage > 0 and theirs.world_size != identity.world_size


def refusal(checkpoint: Checkpoint, identity: Identity, converts: bool | str = False) -> str | None:
    """Why a checkpoint cannot continue in a run of this identity; None if it can, once it is converted."""
    theirs, ours = checkpoint.identity, identity
    if theirs.model_fingerprint != ours.model_fingerprint:
        return f"{checkpoint.path} is of another model: {theirs.model}, not {ours.model}; give this run another folder"
    if theirs.tokenizer_fingerprint != ours.tokenizer_fingerprint:
        return (
            f"{checkpoint.path} was trained with another tokenizer: {theirs.tokenizer}, not {ours.tokenizer}; "
            "set the same one, or give this run another folder"
        )
    if _kind(theirs) != _kind(ours):
        return (
            f"{checkpoint.path} was written by {_layout(theirs)}, and {_layout(ours)} cannot read it: "
            "use what wrote it"
        )
    if parted(checkpoint, identity) and converts is not True:
        why = converts or (
            "DeepSpeed reads its partitions back only with as many ranks. Use as many, or convert it first: "
            f"python -m deepspeed.checkpoint.ds_to_universal --inject_missing_state --input_folder {checkpoint.path} "
            f"--output_folder CONVERTED/{checkpoint.tag}, then --resume CONVERTED"
        )
        return f"{checkpoint.path} was written by {_layout(theirs)}, and this run has {_layout(ours)}: {why}"
    return None


def restore(engine: DeepSpeedEngine, checkpoint: Checkpoint) -> Progress:
    """Load weights, optimizer and schedule into a fresh engine; returns how far it was."""
    return Progress(**load(engine, checkpoint)["progress"])


@heartbeat.told(heartbeat.LOAD)
def load(engine: DeepSpeedEngine, checkpoint: Checkpoint, name: str = "") -> dict[str, Any]:
    """Load weights, optimizer and schedule into a fresh engine, the one saved by that name; returns what it carries."""
    with engines.own_settings(engine):
        path, carried = engine.load_checkpoint(
            str(checkpoint.path.parent),
            tag=f"{checkpoint.tag}/{name}".rstrip("/"),
            load_module_strict=not four_bit.packed(engine.module),
        )
    if checkpoint.universal:
        engines.part_steps(engine)
    if path is None:
        raise Stop(f"DeepSpeed found nothing to load in {checkpoint.path}", NO_CHECKPOINT)
    result: dict[str, Any] = carried
    return result


def _completed(path: Path, keep: int) -> None:
    """What follows complete.json on rank 0: the upload to the mirror begins, and old ones go."""
    mirroring.completed(path.name)
    checkpoint_folder.prune(path.parent, keep, but=mirroring.in_use())


def all_files(path: Path, known: Mapping[str, Written]) -> dict[str, Written]:
    """The files of a checkpoint by their names: those that are `known`, and what else is on disk. Raises OSError."""
    names = (str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return {name: known.get(name) or _small(path / name) for name in names}


def _small(path: Path) -> Written:
    """A file as it is on disk; a large one, from which DeepSpeed resumes nothing, by its size alone."""
    size = path.stat().st_size
    return digests.of(path) if size <= READ_BACK else digests.Written(size, "")


def _point_latest(folder: Path, tag: str) -> None:
    # for DeepSpeed's own tools (zero_to_fp32.py, ds_to_universal); its own writing of this file is not atomic
    half = folder / ".latest"
    half.write_text(tag, encoding="utf-8")
    half.replace(folder / "latest")


def _cannot_write(folder: Path, tag: str, error: OSError) -> str:
    last = checkpoint_folder.newest(folder)
    free = shutil.disk_usage(folder).free / 2**30 if folder.exists() else 0.0
    return f"checkpoint {tag} could not be written to {folder} ({free:.1f} GiB free): {error}; " + (
        f"the last complete one is {last.tag}" if last else "there is no complete one yet"
    )


def _kind(identity: Identity) -> tuple[int, str]:
    """What decides the format of DeepSpeed's files; ZeRO-1 and 2 write the same."""
    return (1 if identity.zero_stage == 2 else identity.zero_stage), identity.precision


def _layout(identity: Identity) -> str:
    return f"{identity.world_size} ranks with ZeRO-{identity.zero_stage} in {identity.precision}"

"""Checkpoints of a run: written whole or not at all, kept K deep, and resumed from the newest that is whole.

Owns the folder `checkpoints/`: one folder per tag `step-00000500`, written by DeepSpeed, and in it the file
`complete.json`, written last, by rank 0, once every rank's files are on disk. It lists these files with their sizes;
a folder without it, or with a file missing or of another size, is broken and never resumed. The state that a
checkpoint carries is the workload's. Converting to another layout is left to DeepSpeed's ds_to_universal, whose result
is resumed too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import heartbeat
from ending import NO_CHECKPOINT

from workloads import architectures, engines, metrics, tokenizer
from workloads.session import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.session import Session

FOLDER = "checkpoints"
MARKER = "complete.json"


@dataclass(frozen=True)
class Progress:
    """How far training has come: optimizer steps, samples (the position in the data) and tokens."""

    step: int = 0
    samples: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Identity:
    """What must be equal for a checkpoint to continue in a run: the same model, tokens and partitions."""

    model: str
    model_fingerprint: str
    tokenizer: str
    tokenizer_fingerprint: str
    world_size: int
    zero_stage: int
    precision: str
    data: str = ""  # of the order of samples; another one is no reason to refuse


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk; a universal one fits any number of ranks."""

    path: Path
    progress: Progress
    identity: Identity
    universal: bool = False

    @property
    def tag(self) -> str:
        return self.path.name


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


@heartbeat.told(heartbeat.CHECKPOINT)
def save(
    engine: DeepSpeedEngine,
    session: Session,
    progress: Progress,
    identity: Identity,
    *,
    keep: int,
    others: Mapping[str, DeepSpeedEngine] | None = None,
    more: Mapping[str, Any] | None = None,
) -> str:
    """Write a complete checkpoint, then delete all but the newest `keep`; returns its tag. All ranks call it.

    Engines beside the first go to folders in it, by their names; `more` is carried along for `load`.

    Raises Stop with NO_CHECKPOINT on every rank when any rank could not write (a full disk); the complete
    checkpoints before are untouched then.
    """
    from torch import distributed

    folder = session.run_dir / FOLDER
    tag = f"step-{progress.step:08d}"
    carried = {"progress": asdict(progress), "identity": asdict(identity)}
    if session.rank == 0:
        shutil.rmtree(folder / tag, ignore_errors=True)  # what is left of a broken one
    written: dict[str, int] = {}
    failures: list[str] = []
    for name, one in {"": engine, **(others or {})}.items():
        with observed(one, folder / tag, written, failures):
            place = f"{tag}/{name}".rstrip("/")
            state = {**carried, **(more or {})}
            one.save_checkpoint(str(folder), tag=place, client_state=state, save_latest=False)
    ranks: list[Any] = [None] * session.world_size
    distributed.all_gather_object(ranks, (written, failures))

    def finish() -> None:
        try:
            for _, failures in ranks:
                if failures:
                    raise OSError(failures[0])
            files = {name: size for written, _ in ranks for name, size in written.items()}
            elsewhere = [name for name in files if not (folder / tag / name).exists()]
            if elsewhere:
                raise OSError(
                    f"{elsewhere[0]} is on another host only: the run's folder must be shared by all hosts"
                )
            metrics.write_atomically(folder / tag / MARKER, {"tag": tag, **carried, "files": files})
            _point_latest(folder, tag)
        except OSError as error:
            shutil.rmtree(folder / tag, ignore_errors=True)
            raise Stop(_cannot_write(folder, tag, error), NO_CHECKPOINT) from error
        _prune(folder, keep)

    session.first(finish)
    return tag


def find(session: Session, older: str | None, identity: Identity, log: metrics.Log) -> Checkpoint | None:
    """The checkpoint to start from: the newest complete one of the run, else of the older run's folder, else none.

    Broken ones that are passed over are logged. Raises Stop on every rank when the one found does not fit this run,
    or when the older run has none.
    """

    def broken(tag: str, reason: str) -> None:
        log.say(f"checkpoint {tag} is passed over: {reason}")
        log.event("skipped", step_of(tag), tag=tag, reason=reason)

    def search() -> Checkpoint | None:
        checkpoint = newest(session.run_dir / FOLDER, broken)
        if checkpoint is None and older:
            checkpoint = _universal(Path(older)) or newest(Path(older), broken)
            if checkpoint is None:
                raise Stop(f"--resume {older}: there is no complete checkpoint in this folder")
        reason = refusal(checkpoint, identity) if checkpoint else None
        if reason:
            raise Stop(reason)
        return checkpoint

    return session.first(search)


def newest(folder: Path, broken: Callable[[str, str], None] = lambda tag, reason: None) -> Checkpoint | None:
    """The newest complete checkpoint of a folder, if any; `broken(tag, reason)` is called for newer broken ones."""
    for path in _newest_first(folder):
        try:
            return _read(path)
        except (OSError, ValueError) as error:
            broken(path.name, str(error))
    return None


def refusal(checkpoint: Checkpoint, identity: Identity) -> str | None:
    """Why a checkpoint cannot continue in a run of this identity; None if it can."""
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
    if not checkpoint.universal and theirs.zero_stage and theirs.world_size != ours.world_size:
        return (
            f"{checkpoint.path} was written by {_layout(theirs)}, and this run has {_layout(ours)}: DeepSpeed reads "
            "its partitions back only with as many ranks. Use as many, or convert it first: "
            f"python -m deepspeed.checkpoint.ds_to_universal --inject_missing_state --input_folder {checkpoint.path} "
            f"--output_folder CONVERTED/{checkpoint.tag}, then --resume CONVERTED"
        )
    return None


def restore(engine: DeepSpeedEngine, checkpoint: Checkpoint) -> Progress:
    """Load weights, optimizer and schedule into a fresh engine; returns how far it was."""
    return Progress(**load(engine, checkpoint)["progress"])


@heartbeat.told(heartbeat.LOAD)
def load(engine: DeepSpeedEngine, checkpoint: Checkpoint, name: str = "") -> dict[str, Any]:
    """Load weights, optimizer and schedule into a fresh engine, the one saved by that name; returns what it carries."""
    with engines.own_settings(engine):
        path, carried = engine.load_checkpoint(
            str(checkpoint.path.parent), tag=f"{checkpoint.tag}/{name}".rstrip("/")
        )
    if checkpoint.universal:
        engines.part_steps(engine)
    if path is None:
        raise Stop(f"DeepSpeed found nothing to load in {checkpoint.path}", NO_CHECKPOINT)
    result: dict[str, Any] = carried
    return result


def guarded(
    work: Callable[..., Any], failures: list[str], wrote: Callable[..., None] = lambda *_: None
) -> Callable[..., Any]:
    """`work` whose failures to write are noted instead of raised; `wrote` is called after it with its arguments.

    A rank that raised would leave the others waiting in a barrier.
    """
    from safetensors import SafetensorError

    def call(*args: Any, **options: Any) -> Any:
        try:
            result = work(*args, **options)
            wrote(*args, *options.values())
            return result
        except OSError as error:
            failures.append(str(error))
        except (RuntimeError, SafetensorError) as error:
            failures.append(_in_words(error))

    return call


@contextlib.contextmanager
def observed(
    engine: DeepSpeedEngine, folder: Path, written: dict[str, int], failures: list[str]
) -> Iterator[None]:
    """Note the files that DeepSpeed writes below `folder`, and its failures to, which are not raised inside."""
    writer = engine.checkpoint_engine

    def note(_state: object, path: str) -> None:
        with open(path, "rb") as file:  # noqa: PTH123
            os.fsync(file.fileno())  # the marker must not reach the disk before what it vouches for
            written[str(Path(path).relative_to(folder))] = os.fstat(file.fileno()).st_size

    guards = [
        (writer, "save", guarded(writer.save, failures, note)),
        (writer, "makedirs", guarded(writer.makedirs, failures)),
        (engine, "_copy_recovery_script", guarded(engine._copy_recovery_script, failures)),
    ]
    for owner, name, guard in guards:
        setattr(owner, name, guard)
    try:
        yield
    finally:
        for owner, name, _ in guards:
            delattr(owner, name)


def step_of(tag: str) -> int:
    """The step of a tag: ours, or a folder of the Hugging Face Trainer; -1 for any other name."""
    match = re.fullmatch(r"(?:step|checkpoint)-(\d+)", tag)
    return int(match[1]) if match else -1


def vouch(
    session: Session,
    path: Path,
    progress: Progress,
    identity: Identity,
    *,
    keep: int,
    failures: list[str],
) -> None:
    """Mark a checkpoint that another program wrote as complete, then delete all but the newest `keep`.

    All ranks call it once they have written, each with what it failed to write. Raises Stop as `save` does.
    """
    from torch import distributed

    everywhere: list[Any] = [None] * session.world_size
    distributed.all_gather_object(everywhere, failures)

    def mark() -> None:
        try:
            for failed in filter(None, everywhere):
                raise OSError(failed[0])
            files = {str(f.relative_to(path)): f.stat().st_size for f in path.rglob("*") if f.is_file()}
            carried = {"progress": asdict(progress), "identity": asdict(identity)}
            metrics.write_atomically(path / MARKER, {"tag": path.name, **carried, "files": files})
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise Stop(_cannot_write(path.parent, path.name, error), NO_CHECKPOINT) from error
        _prune(path.parent, keep)

    session.first(mark)


def _in_words(error: Exception) -> str:
    # torch's writer (caffe2/serialize/inline_container.cc) notices a short write, but not its reason
    partly = any(words in str(error) for words in ("inline_container", "PytorchStreamWriter"))
    whole = "the file system took only a part of a file: it is full, or there is a quota or limit"
    return whole if partly else str(error).strip().splitlines()[0]


def _newest_first(folder: Path) -> list[Path]:
    tags = [path for path in folder.glob("*-*") if step_of(path.name) >= 0]
    return sorted(tags, key=lambda path: step_of(path.name), reverse=True)


def _read(path: Path) -> Checkpoint:
    """A checkpoint whose files are all there. Raises OSError or ValueError that says what is wrong with it."""
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"it was not finished ({MARKER} is missing)") from error
    for name, size in marker["files"].items():
        try:
            actual = (path / name).stat().st_size
        except FileNotFoundError as error:
            raise ValueError(f"{name} is missing") from error
        if actual != size:
            raise ValueError(f"{name} has {actual} bytes instead of {size}")
    try:
        return Checkpoint(path, Progress(**marker["progress"]), Identity(**marker["identity"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{MARKER} is of another version ({error})") from error


def _universal(folder: Path) -> Checkpoint | None:
    """The checkpoint that ds_to_universal wrote to a folder, if it did; what it carries is in DeepSpeed's files."""
    import torch

    pointer = folder / "latest_universal"
    if not pointer.exists():
        return None
    path = folder / pointer.read_text(encoding="utf-8").strip()
    states = sorted(path.glob("*model_states.pt"))
    if not states:
        raise Stop(f"--resume {folder}: {path} has no model states")
    carried = torch.load(states[0], map_location="cpu", mmap=True, weights_only=False)
    return Checkpoint(path, Progress(**carried["progress"]), Identity(**carried["identity"]), universal=True)


def _point_latest(folder: Path, tag: str) -> None:
    # for DeepSpeed's own tools (zero_to_fp32.py, ds_to_universal); its own writing of this file is not atomic
    half = folder / ".latest"
    half.write_text(tag, encoding="utf-8")
    half.replace(folder / "latest")


def _prune(folder: Path, keep: int) -> None:
    complete = 0
    for path in _newest_first(folder):
        with contextlib.suppress(OSError, ValueError):
            _read(path)
            complete += 1
            if complete <= keep:
                continue
        if complete:  # newer than the newest complete one is nothing yet
            (path / MARKER).unlink(missing_ok=True)  # half deleted must not look whole
            shutil.rmtree(path, ignore_errors=True)


def _cannot_write(folder: Path, tag: str, error: OSError) -> str:
    last = newest(folder)
    free = shutil.disk_usage(folder).free / 2**30 if folder.exists() else 0.0
    return f"checkpoint {tag} could not be written to {folder} ({free:.1f} GiB free): {error}; " + (
        f"the last complete one is {last.tag}" if last else "there is no complete one yet"
    )


def _kind(identity: Identity) -> tuple[int, str]:
    """What decides the format of DeepSpeed's files; ZeRO-1 and 2 write the same."""
    return (1 if identity.zero_stage == 2 else identity.zero_stage), identity.precision


def _layout(identity: Identity) -> str:
    return f"{identity.world_size} ranks with ZeRO-{identity.zero_stage} in {identity.precision}"

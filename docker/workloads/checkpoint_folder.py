"""The folder of a run's checkpoints: which are whole, which is the newest, which are kept; without torch.

Owns the folder `checkpoints/`: one folder per tag `step-00000500`, and in it the file `complete.json`, written last,
once every rank's files are on disk. It lists these files with their sizes and digests; a folder without it, or with a
file missing or of another size, is broken and never resumed. The marker of one whose digests differ becomes
`damaged.json`, with the reasons. What is in the other files is checkpoints.py's. The launcher reads folders by it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from workloads import digests, metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from workloads.digests import Written

FOLDER = "checkpoints"
MARKER = "complete.json"
DAMAGED = "damaged.json"
_MOST = 2**26  # bytes of a marker: of 100,000 ranks
MODEL = "model"  # beside the tags: what is needed beside weights to build the model again


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
    digests: Mapping[str, str] = field(default_factory=dict)  # of files, by name; those of old ones have none

    @property
    def tag(self) -> str:
        return self.path.name


def newest(
    folder: Path,
    broken: Callable[[str, str], None] = lambda tag, reason: None,
    but: Collection[Path] = (),
) -> Checkpoint | None:
    """The newest complete checkpoint of a folder, if any, `but` these.

    `broken(tag, reason)` is called for newer broken ones.
    """
    for path in newest_first(folder):
        if path in but:
            continue
        try:
            return read(path)
        except (OSError, ValueError) as error:
            broken(path.name, str(error))
    return None


def mark(path: Path, carried: Mapping[str, Any], files: Mapping[str, Written]) -> None:
    """Write what makes a checkpoint complete. Raises OSError."""
    record = {
        "tag": path.name,
        **carried,
        "files": {name: file.size for name, file in files.items()},
        digests.KIND: {name: file.digest for name, file in files.items() if file.digest},
    }
    metrics.write_atomically(path / MARKER, {**record, "seal": digests.seal(record)})


def distrust(path: Path, reasons: list[str]) -> None:
    """Take away a checkpoint's marker, so that it is neither resumed nor counted as one that is kept."""
    marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
    metrics.write_atomically(path / DAMAGED, {**marker, "damaged": reasons})
    (path / MARKER).unlink()


def read(path: Path) -> Checkpoint:
    """A checkpoint whose files are all there. Raises OSError or ValueError that says what is wrong with it."""
    known = marker(path)
    for name, size in known["files"].items():
        try:
            status = (path / name).stat()
        except FileNotFoundError as error:
            raise ValueError(f"{name} is missing") from error
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise ValueError(f"{name} has {status.st_size} bytes instead of {size}")
    try:
        progress, identity = Progress(**known["progress"]), Identity(**known["identity"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{MARKER} is of another version ({error})") from error
    numbers = (*vars(progress).values(), identity.world_size, identity.zero_stage)
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"{MARKER} is of another version")
    return Checkpoint(path, progress, identity, digests=known.get(digests.KIND, {}))


def marker(path: Path) -> dict[str, Any]:
    """What complete.json says, as it was written. Raises OSError or ValueError."""
    try:
        return parsed(_text(path / MARKER))
    except FileNotFoundError as error:
        damaged = (path / DAMAGED).exists()
        why = f"it is damaged, see {DAMAGED}" if damaged else f"it was not finished ({MARKER} is missing)"
        raise ValueError(why) from error


def parsed(content: bytes) -> dict[str, Any]:
    """What the bytes of a complete.json say, as it was written. Raises ValueError."""
    try:
        known: Any = json.loads(content)
    except RecursionError:
        known = None
    except UnicodeDecodeError as error:
        raise ValueError(f"{MARKER} has other bytes than were written ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{MARKER} has other bytes than were written ({error})") from error
    if not isinstance(known, dict) or not all(
        map(_is_listing, (known.get("files"), known.get(digests.KIND, {})))
    ):
        raise ValueError(f"{MARKER} is of another version")
    seal = known.pop("seal", None)
    if seal is not None and seal != digests.seal(known):
        raise ValueError(f"{MARKER} has other bytes than were written")
    return known


def _is_listing(names: object) -> bool:
    """Whether it is a mapping of files of the checkpoint alone: what others wrote may name any."""
    return isinstance(names, dict) and not any(
        PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name
        for name in names
    )


def _text(path: Path) -> bytes:
    """What a file holds; a pipe of that name is not waited for."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path.name} is no file")
        return file.read(_MOST)


def prune(folder: Path, keep: int, but: str | None = None) -> None:
    """Delete all but the newest `keep` complete checkpoints, and broken ones before them; `but` stays as it is."""
    complete = 0
    for path in newest_first(folder):
        with contextlib.suppress(OSError, ValueError):
            read(path)
            complete += 1
            if complete <= keep:
                continue
        if complete and path.name != but:  # newer than the newest complete one is nothing yet
            (path / MARKER).unlink(missing_ok=True)  # half deleted must not look whole
            shutil.rmtree(path, ignore_errors=True)


def step_of(tag: str) -> int:
    """The step of a tag: ours, or a folder of the Hugging Face Trainer; -1 for any other name."""
    match = re.fullmatch(r"(?:step|checkpoint)-(\d+)", tag)
    return int(match[1]) if match else -1


def newest_first(folder: Path) -> list[Path]:
    tags = [path for path in folder.glob("*-*") if step_of(path.name) >= 0]
    return sorted(tags, key=lambda path: step_of(path.name), reverse=True)

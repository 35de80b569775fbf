"""Digests of a checkpoint's files: taken while they are written, compared before they are read back.

xxh3_128 of the package xxhash: 30 GB a second and core, so that it costs little beside writing. It finds what disks,
networks and memory do to a file, not what someone forges.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

KIND = "xxh3_128"
BLOCK = 16 << 20  # bytes
# of DeepSpeed's names for partitions and of the Trainer's for random states
OF_A_RANK = re.compile(r"(?:pp_rank|rng_state)_(\d+)")


class Written(NamedTuple):
    """A file of a checkpoint as it was meant to be: bytes, and the digest of them."""

    size: int
    digest: str


class HashingFile:
    """A file to write to once, from its beginning to its end, as torch.save does."""

    def __init__(self, path: str) -> None:
        import xxhash

        self._file = open(path, "wb")  # noqa: PTH123, SIM115
        self._digest = xxhash.xxh3_128()
        self._size = 0

    def write(self, data: memoryview | bytes) -> int:
        self._digest.update(data)
        written = self._file.write(data)
        self._size += written
        return written

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def to_disk(self) -> Written:
        """Wait until the disk has it; returns what it should hold."""
        self.flush()
        os.fsync(self._file.fileno())
        return Written(self._size, self._digest.hexdigest())


def write(writer: Any, save: Callable[..., Any], state: object, path: str) -> Written:
    """Have one of DeepSpeed's checkpoint engines `save` a file, and wait until it is on disk.

    Raises OSError or RuntimeError as the writer does. What an engine wrote that opens the file itself is read again.
    """
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    if type(writer) is TorchCheckpointEngine:  # hands what it is given to torch.save
        with HashingFile(path) as file:
            save(state, file)
            return file.to_disk()
    save(state, path)
    with open(path, "rb") as written:  # noqa: PTH123
        os.fsync(written.fileno())
    return of(Path(path))


def of(path: Path) -> Written:
    """The size and digest of a file on disk. Raises OSError."""
    with path.open("rb") as file:
        return of_stream(file)


def of_stream(file: IO[bytes]) -> Written:
    """The size and digest of what can still be read of a file. Raises OSError."""
    import xxhash

    digest, size = xxhash.xxh3_128(), 0
    while block := file.read(BLOCK):
        digest.update(block)
        size += len(block)
    return Written(size, digest.hexdigest())


def seal(record: Mapping[str, Any]) -> str:
    """The digest of a JSON object, whatever the order of its keys."""
    import xxhash

    return str(xxhash.xxh3_128(json.dumps(record, sort_keys=True).encode()).hexdigest())


def share(names: Iterable[str], rank: int, world_size: int) -> list[str]:
    """Those of a checkpoint's files that this rank compares: its own, and some of those that have no rank."""
    return [name for name in names if _owner(name) % world_size == rank]


def _owner(name: str) -> int:
    owner = OF_A_RANK.search(Path(name).name)
    return int(owner[1]) if owner else zlib.crc32(name.encode())


def differing(folder: Path, names: Iterable[str], digests: Mapping[str, str]) -> list[str]:
    """Those of these files of a folder that have other digests. Raises OSError for one that cannot be read."""
    return [name for name in names if name in digests and of(folder / name).digest != digests[name]]


def damaged(folder: Path, names: Iterable[str], digests: Mapping[str, str]) -> list[str]:
    """What is wrong with these files of a folder: a sentence each. Files without a digest are taken as they are."""
    reasons = []
    for name in names:
        try:
            if differing(folder, [name], digests):
                reasons.append(f"{name} has other bytes than were written ({KIND} differs)")
        except OSError as error:
            reasons.append(f"{name} cannot be read: {error.strerror or error}")
    return reasons

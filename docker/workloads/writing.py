"""What one rank writes of a checkpoint: files with their digests, at once or later, and what it failed to write.

Owns the wrapping of DeepSpeed's checkpoint engine. A failure is noted and not raised: a rank that raised would leave
the others waiting in a barrier. When the rest is written is saver.py's.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workloads import digests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deepspeed import DeepSpeedEngine

    from workloads.digests import Written
    from workloads.snapshot import Copies


class Part(NamedTuple):
    """A rank's part of a checkpoint: the files on disk, by their names below it, and failures to write, in words."""

    written: dict[str, Written]
    failures: list[str]


class Writing:
    """A checkpoint that this rank writes below `path`; with `copies` its files are written by `rest`, from those."""

    def __init__(self, path: Path, rank: int, copies: Copies | None = None) -> None:
        self.path, self.part = path, Part({}, [])
        self._rank, self._copies = rank, copies
        self._later: list[Callable[[], None]] = []

    def file(self, write: Callable[[object, str], Written], state: object, path: str) -> None:
        """Have a state written to a file below `path`: now, or a copy of it later."""
        if self._copies is None:
            self._write(write, state, path)
        else:
            self._later.append(functools.partial(self._write, write, self._copies.take(state), path))

    def rest(self) -> None:
        """Write what was put off; whatever goes wrong is noted, as the other ranks wait for this part."""
        while self._later:
            try:
                self.guarded(self._later.pop(0))()
            except Exception as error:
                traceback.print_exc()
                self._note(f"{type(error).__name__}: {error}")

    def guarded(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work` whose failures to write are noted instead of raised."""
        from safetensors import SafetensorError

        def call(*args: Any, **options: Any) -> Any:
            try:
                return work(*args, **options)
            except OSError as error:
                self._note(str(error))
            except (RuntimeError, SafetensorError) as error:
                self._note(_in_words(error))

        return call

    def _write(self, write: Callable[[object, str], Written], state: object, path: str) -> None:
        # on disk when this returns: the marker must not reach the disk before what it vouches for
        try:
            self.part.written[str(Path(path).relative_to(self.path))] = write(state, path)
        except OSError as error:
            raise OSError(f"{path}: {error.strerror or error}") from error
        except RuntimeError as error:
            raise RuntimeError(f"{path}: {_in_words(error)}") from error

    def _note(self, reason: str) -> None:
        self.part.failures.append(f"rank {self._rank} on {socket.gethostname()}: {reason}")


def first_failure(parts: Sequence[Part]) -> str:
    """What a rank failed to write, in words; empty where each has written its part."""
    return next((failure for part in parts for failure in part.failures), "")


@contextlib.contextmanager
def observed(engine: DeepSpeedEngine, writing: Writing) -> Iterator[None]:
    """Inside, DeepSpeed writes its files by way of `writing`, and its failures to are not raised."""
    writer = engine.checkpoint_engine
    save = writer.save

    def file(state_dict: object, path: str) -> None:
        writing.file(functools.partial(digests.write, writer, save), state_dict, path)

    guards = [
        (writer, "save", writing.guarded(file)),
        (writer, "makedirs", writing.guarded(writer.makedirs)),
        (engine, "_copy_recovery_script", writing.guarded(engine._copy_recovery_script)),
    ]
    for owner, name, guard in guards:
        setattr(owner, name, guard)
    try:
        yield
    finally:
        for owner, name, _ in guards:
            delattr(owner, name)


def _in_words(error: Exception) -> str:
    # torch's writer (caffe2/serialize/inline_container.cc) notices a short write, but not its reason
    partly = any(words in str(error) for words in ("inline_container", "PytorchStreamWriter"))
    whole = "the file system took only a part of a file: it is full, or there is a quota or limit"
    return whole if partly else str(error).strip().splitlines()[0]

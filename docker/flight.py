"""torch's flight recorder, where a job has turned it on: the last collectives of a rank as NCCL knows them.

Owns asking for it. torch reads a pipe that it makes, and writes a file with what it has recorded (ProcessGroupNCCL.cpp,
DumpPipe, and https://docs.pytorch.org/tutorials/unstable/flight_recorder_tutorial.html, whose analyzer reads the file):

    TORCH_NCCL_TRACE_BUFFER_SIZE      above 0: it records        TORCH_NCCL_DEBUG_INFO_PIPE_FILE   <this><rank>.pipe
    TORCH_NCCL_DEBUG_INFO_TEMP_FILE   <this><rank> is what it writes; also TORCH_FR_DUMP_TEMP_FILE
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PIPE = "TORCH_NCCL_DEBUG_INFO_PIPE_FILE"
_FILES = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
_DEFAULT = "/tmp/nccl_trace_rank_"
_PATIENCE = 5.0  # seconds; a thread of torch looks at the pipe every second


def ask(ranks: Mapping[int, Mapping[str, str]]) -> dict[int, Path]:
    """rank → the file that torch will write, of those ranks (with their variables) that take the question."""
    asked = {}
    for rank, variables in ranks.items():
        if stem := variables.get(_PIPE):
            with contextlib.suppress(OSError):  # no pipe, or nobody reads it
                with _own(Path(f"{stem}{rank}.pipe"), os.O_WRONLY, stat.S_IFIFO) as pipe:
                    pipe.write(b"1\n")
                named = next(filter(None, map(variables.get, _FILES)), _DEFAULT)
                asked[rank] = Path(f"{named}{rank}")
    return asked


def keep(files: Mapping[int, Path], since: float, folder: Path) -> None:
    """Copy what was written after `since`, Unix time, to <folder>/flight-<rank>, as soon as it is there."""
    left, end = dict(files), time.monotonic() + _PATIENCE
    while left and time.monotonic() < end:
        for rank, file in list(left.items()):
            with contextlib.suppress(OSError), _own(file, os.O_RDONLY, stat.S_IFREG) as written:
                status = os.fstat(written.fileno())
                if status.st_mtime >= since and status.st_size:
                    with (folder / f"flight-{rank}").open("wb") as kept:
                        shutil.copyfileobj(written, kept)
                    del left[rank]
        time.sleep(0.1 if left else 0.0)


@contextlib.contextmanager
def _own(path: Path, flags: int, kind: int) -> Iterator[BinaryIO]:
    """A file of this user of a kind (stat.S_IF…). Raises OSError for any other: everybody may write to /tmp."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_IFMT(status.st_mode) != kind or status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "of another user or kind", str(path))
        with os.fdopen(descriptor, "wb" if flags & os.O_WRONLY else "rb", 0, closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)

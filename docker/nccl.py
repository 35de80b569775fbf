"""What NCCL says of its start, such as the network that it took, without a log full of it.

Owns NCCL's log files: one a process, on this host's own disk, in a folder that no other user can enter. At INFO, for
its subsystems INIT and NET, NCCL writes some hundred lines a process when it starts and none later. Of those, the
chosen network and every warning are added to the rank's own log, where `status` and people look; a run that fails
leaves the files in its folder.

    https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-debug-file

A job that sets NCCL_DEBUG_FILE, NCCL_DEBUG_SUBSYS, or NCCL_DEBUG to something else than WARN has what it asks for.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from logs import Log

_WORTH = re.compile(r"NCCL (WARN .*|INFO (Using network .*))")
_SECONDS = 1.0  # between two looks
_PATIENCE = 5.0  # seconds, as logs.finish
_MOST = 2**20  # bytes of a file that a failed run keeps


@dataclass
class Notes:
    """NCCL's files of this host, below `folder`; `variables` make the ranks write them."""

    folder: Path
    variables: dict[str, str]
    offsets: dict[str, int] = field(default_factory=dict)
    told: set[tuple[str, str]] = field(
        default_factory=set
    )  # (pid, network): one line, not one a communicator
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def follow(self, kept: Mapping[int, Log], numbers: Mapping[int, int]) -> None:
        """Add what matters to the ranks' logs until `finish`; `numbers`: pid → rank of the processes started here."""

        def watch() -> None:
            ended = False
            while not ended:
                ended = self._ended.wait(_SECONDS)  # what came before the end is read once more after it
                with contextlib.suppress(OSError):  # a job may empty its host's scratch
                    self._add(kept, numbers)

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()

    def finish(self, evidence: Path | None) -> None:
        """Add the rest; copy the files to the new folder `evidence`, which a run that failed names."""
        self._ended.set()
        if self._thread:
            self._thread.join(_PATIENCE)
        if evidence is None:
            return
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                evidence.mkdir(exist_ok=True)
                with path.open("rb") as file:
                    (evidence / f"{path.name}.log").write_bytes(file.read(_MOST))

    def _add(self, kept: Mapping[int, Log], numbers: Mapping[int, int]) -> None:
        for path in sorted(self.folder.iterdir()):
            # a process that a rank, or a launcher of one's own, has started is told in this host's first log
            rank = numbers.get(int(path.name), -1) if path.name.isdecimal() else -1
            lines = [line for line in self._read(path) if self._is_new(path.name, line)]
            log = kept.get(rank, kept[min(kept)])
            log.add("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))

    def _read(self, path: Path) -> list[str]:
        """The whole lines that are new."""
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(self.offsets.get(path.name, 0))
            whole, newline, _ = file.read().rpartition(b"\n")
            self.offsets[path.name] = self.offsets.get(path.name, 0) + len(whole + newline)
            return whole.decode("utf-8", "replace").splitlines()
        return []

    def _is_new(self, process: str, line: str) -> bool:
        if not (said := _WORTH.search(line)):
            return False
        network = said[2]
        if network is None:
            return True
        new = (process, network) not in self.told
        self.told.add((process, network))
        return new


@contextlib.contextmanager
def notes(variables: Mapping[str, str], scratch: Path | None) -> Iterator[Notes | None]:
    """The files of ranks with these variables, in a folder below `scratch` that goes when the context ends.

    None where the job sets other than the launcher does, and where there is no room for them.
    """
    own = {"NCCL_DEBUG_FILE", "NCCL_DEBUG_SUBSYS"} & set(variables)
    if variables.get("NCCL_DEBUG") != "WARN" or own:
        yield None
        return
    try:
        made = tempfile.TemporaryDirectory(prefix="nccl-", dir=scratch, ignore_cleanup_errors=True)
    except OSError:  # a full disk is no reason not to train
        yield None
        return
    with made as folder:
        said = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET", "NCCL_DEBUG_FILE": f"{folder}/%p"}
        yield Notes(Path(folder), said)

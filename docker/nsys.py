"""Nsight Systems around the ranks of a job that wants it: it records nothing until a profile of it is asked for.

nsys records what it has started itself, and attaches to no process that runs (its user guide, "Profiling from the CLI":
https://docs.nvidia.com/nsight-systems/UserGuide/index.html). So the ranks start under it, and a rank opens and closes
the range that it records with cudaProfilerStart and cudaProfilerStop, between two of its steps (tracing.py); with such
a range nsys lets the program go on after it, and `repeat` takes the next one as another report.

    python nsys.py FILE ENTRY PROGRAM WORD…    what nsys starts: the rank, of which FILE gets the process

Owns nsys' command line, and this program between nsys and the rank. The node entry's signals go to the rank by the
process id in FILE, and FILE.code has the code that it ended with, whatever nsys makes of both. It ends the rank when
the node entry, process ENTRY, is gone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

VARIABLE = "LAUNCHER_NSYS"  # the beginning of the path of this rank's reports
PROGRAM, SUFFIX = "nsys", ".nsys-rep"
NOT_UNDER = "it was not started under nsys, which attaches to no process that runs: `profile: {nsys: true}` of the job"
# GPU work, NVTX and calls that wait; sampling the processor wants rights that containers seldom have
_OPTIONS = (
    *("profile", "--trace=cuda,nvtx,osrt", "--sample=none", "--cpuctxsw=none"),
    *("--capture-range=cudaProfilerApi", "--capture-range-end=repeat", "--kill=none"),
)
_POLL = 0.5  # seconds
_PATIENCE = 120.0  # until a report is there
_AGAIN = 1.0  # between two looks at its size


def missing(path: str) -> str:
    """Why ranks with this PATH cannot be under nsys; empty where they can."""
    import shutil  # every rank that tells its steps reads this module

    if shutil.which(PROGRAM, path=path):
        return ""
    what = (
        f"profile.nsys: there is no nsys on PATH ({path}): take an image or a module that has Nsight Systems"
    )
    return f"{what}, or leave it out; `launcher profile` needs it for --tool nsys alone"


def words(told: Path, output: str, rank: str, command: list[str]) -> list[str]:
    """`command` under nsys. `told`: the folder of the ranks' records."""
    # isolated, so that it neither reads what the rank's Python is to read nor answers as the rank's Python does
    between = [sys.executable, "-I", "-S", str(Path(__file__).absolute())]
    return [
        PROGRAM,
        *_OPTIONS,
        f"--output={output}",
        *between,
        str(file(told, rank)),
        str(os.getpid()),
        *command,
    ]


def file(told: Path, rank: str) -> Path:
    """Where a rank's process id is; the code that it ended with is beside it."""
    return told / f"nsys-{rank}"


def process(known: Path, otherwise: int) -> int:
    """The process of a rank; `otherwise` before it is started and after it has ended."""
    return otherwise if known.with_suffix(".code").exists() else _number(known, otherwise)


def code(known: Path, status: int) -> int:
    """What a rank ended with, minus the signal's number; `status`, that of nsys, where it was not started."""
    return _number(known.with_suffix(".code"), status)


def _number(path: Path, otherwise: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return otherwise


class Recorder:
    """What a rank does for a profile by nsys; tracing.py tells it when."""

    warmup = 0  # steps before those that are recorded

    def __init__(self, torch: Any, _steps: int) -> None:
        """Begin. Raises RuntimeError where the rank is not under nsys."""
        if not (stem := os.environ.get(VARIABLE)):
            raise RuntimeError(NOT_UNDER)
        self._cuda = torch.cuda
        self._reports, self._prefix = Path(stem).parent, Path(stem).name
        self._before = self._there()
        self._seen: tuple[Path, int] | None = None
        self._looked = self._ended = 0.0
        self._cuda.synchronize()
        self._cuda.profiler.start()

    def step(self) -> None:
        """A step is done."""

    def stop(self) -> None:
        self._cuda.synchronize()
        self._cuda.profiler.stop()
        self._ended = time.monotonic()

    def written(self, to: Path) -> dict[str, Any] | None:
        """The size of the report, once it is moved to `to`; None while it grows. Raises TimeoutError without one.

        nsys writes it behind the rank's back, which goes on.
        """
        now = time.monotonic()
        if now - self._looked < _AGAIN:
            return None
        self._looked = now
        new = sorted(self._there() - self._before)
        seen = (new[-1], new[-1].stat().st_size) if new else None
        if seen and seen[1] and seen == self._seen:
            to.parent.mkdir(parents=True, exist_ok=True)
            seen[0].replace(to)
            return {"bytes": seen[1], "cpu": 0.0, "device": 0.0, "operators": []}
        self._seen = seen
        if now - self._ended > _PATIENCE:
            raise TimeoutError(f"nsys wrote no report within {_PATIENCE:.0f} s")
        return None

    def _there(self) -> set[Path]:
        return set(self._reports.glob(f"{self._prefix}*{SUFFIX}"))


def main() -> int:
    import signal
    import subprocess

    told, entry, *command = sys.argv[1:]
    started = subprocess.Popen(command)
    _leave(Path(told), started.pid)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = started.wait(_POLL)
            break
        if not _lives(entry):
            started.send_signal(signal.SIGKILL)
    _leave(Path(told).with_suffix(".code"), status)
    return status if status >= 0 else 128 - status


def _lives(pid: str) -> bool:
    """Whether the process runs: one that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    return False


def _leave(path: Path, number: int) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(str(number), encoding="ascii")
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())

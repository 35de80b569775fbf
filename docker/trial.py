"""One trial of a tuning run on this host: its ranks, started and supervised by a node entry of their own.

Owns that process and reads what its ranks left; which trial it is, and what it is good for, tune.py and halving.py say.
A trial has a folder of its own in the run's, laid out like a run's: DeepSpeed's configuration, logs, metrics.jsonl.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import logs
from ending import SAVED

if TYPE_CHECKING:
    from types import FrameType

_LIBC = ctypes.CDLL(None)
_NODE = Path(__file__).with_name("node.py")
_LEAVING = 30.0  # seconds between SIGTERM and SIGKILL
_LONGEST = 200  # characters of a reason
# What torch, Python, C++ and the C library say when they get no memory, of a GPU or of the host.
_MEMORY = re.compile(
    r"OutOfMemoryError|out of memory|can't allocate memory|Cannot allocate memory|MemoryError|bad_alloc"
)


class Order(NamedTuple):
    """What to try: a name for folder and ports, DeepSpeed's configuration, what ranks run, and for how long at most."""

    name: str
    config: dict[str, Any]
    words: list[str]
    steps: int
    limit: float


class Ended(NamedTuple):
    """How it ended here: the exit code, whether it took too long or ran out of memory, a rank's last words."""

    code: int
    late: bool = False
    memory: bool = False
    why: str = ""


@dataclass
class Host:
    """This host, and the trial that runs on it, if one does."""

    folder: Path  # the run's
    run: str
    hostfile: Path
    index: int
    stopped: bool = False  # by a signal: no other trial starts
    process: subprocess.Popen[bytes] | None = None

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """A signal handler: the trial that runs ends without a result."""
        self.stopped = True
        if self.process:
            self.process.send_signal(signal.SIGTERM)

    def attempt(self, order: Order) -> Ended:
        """Run a trial to its end. Raises OSError where its folder cannot be written."""
        if self.stopped:
            return Ended(SAVED)
        folder = place(self.folder, order.name)
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "ds_config.json"
        draft = folder / f".ds_config.{self.index}"
        draft.write_text(json.dumps(order.config, indent=1) + "\n", encoding="utf-8")
        draft.replace(config)
        with (folder / f"node-{self.index}.log").open("ab") as log:
            code, late = self._wait(self._command(order, folder, config), order.limit, log)
        return Ended(code, late, *_last_words(folder))

    def _command(self, order: Order, folder: Path, config: Path) -> list[str]:
        here = [f"--hostfile={self.hostfile}", f"--node={self.index}", f"--folder={folder}", "--echo=0"]
        own = [f"--deepspeed-config={config}", f"--run-dir={folder}", f"--max-steps={order.steps}"]
        never = ["--checkpoint-every=0", "--checkpoint-keep=0"]
        named = f"--run={self.run}/{order.name}"
        return [sys.executable, str(_NODE), named, *here, "--", *order.words, *own, *never]

    def _wait(self, words: list[str], limit: float, log: Any) -> tuple[int, bool]:
        """Exit code, and whether the time was over."""

        def prepare() -> None:
            _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: its ranks end with it in the same way

        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=prepare
        ) as process:
            self.process = process
            if self.stopped:  # the signal came before there was a process
                process.terminate()
            late = not _ends(process, limit)
            if late:
                process.terminate()
                if not _ends(process, _LEAVING):
                    process.kill()
            code = process.wait()
        self.process = None
        return (code if code >= 0 else 128 - code), late


def place(folder: Path, name: str) -> Path:
    """The folder of a trial in the run's."""
    return folder / "trials" / name


def measured(folder: Path) -> tuple[list[float], dict[str, float]]:
    """Seconds of each step that the ranks logged, and the last line's figures with the highest memory."""
    steps, last = list[float](), dict[str, float]()
    with contextlib.suppress(OSError):
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                record = json.loads(line)
                steps.append(float(record["step_seconds"]))
                memory = max(last.get("memory_bytes", 0.0), float(record["memory_bytes"]))
                last = {"memory_bytes": memory, "tokens_per_second": float(record["tokens_per_second"])}
    return steps, last


def _ends(process: subprocess.Popen[bytes], limit: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(limit)
        return True
    return False


def _last_words(folder: Path) -> tuple[bool, str]:
    """Of the rank that failed first: whether it had no memory, and its last line; (False, '') where none did."""
    with contextlib.suppress(OSError, ValueError):
        code, rank, *_ = (folder / "outcome-0").read_text().split()
        if int(code) and int(rank) >= 0:
            text = logs.tail(folder / "logs", int(rank)).decode("utf-8", "replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            memory = [line for line in lines if _MEMORY.search(line)]
            return bool(memory), (memory or lines or [""])[-1][:_LONGEST]
    return False, ""


def environment(folder: Path) -> None:
    """Have the trials share what they tokenize, in the run's folder, unless the job says where."""
    os.environ.setdefault("DATA_CACHE", str(folder / "data"))

"""Whether a run that only is slow is ever said to hang: two hosts of one rank each, on this machine.

    PYTHONPATH=docker python -m tests.bench.false_alarms [--minutes 20] [--load PROCESSES] [--json]

The job leaves `watch` at auto. Its first step is compiled (torch.compile), it evaluates, checkpoints go to a file
system that takes DISK bytes a second (slow_writes.c), and PROCESSES keep the machine's cores busy. It fails if anything
said that the run hangs, if the run ended, or if one of these phases has not been. Of each phase it says the longest
time without a sign of life of any rank, and the limit that it had: the node entries' judgement (docker/pace.py) of the
same signs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import heartbeat
import pace
import processes
import rank_shell

from launcher import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

RANKS = (0, 1)
BUSY = "import hashlib\nwhile True: hashlib.sha256(bytes(2**20))"
SAYS = ("stalled for", "silent for", "a restart would not help")  # of the node entry's lines in job.log
DISK = 1_500.0  # bytes a second: a checkpoint takes twelve minutes
SLOW = 600.0  # seconds that checkpoints take at least: more than a step may
PHASES = (heartbeat.FIRST, heartbeat.STEP, heartbeat.EVALUATE, heartbeat.CHECKPOINT)


@dataclasses.dataclass(frozen=True)
class Trial:
    """How slow what is. `minutes`: how long the run lasts, twice that at most; its `steps` may be done before."""

    minutes: float = 20.0
    load: int = 2 * (os.cpu_count() or 1)
    disk: float = DISK
    slow: float = SLOW
    backend: str = "inductor"
    steps: int = 1_000_000
    evaluate: int = 20
    checkpoint: int = 60
    model: str = "tiny-llama"

    def job(self, library: Path, runs: Path) -> dict[str, Any]:
        """The job file."""
        args: dict[str, Any] = {
            "seq-length": 64,
            "max-steps": self.steps,
            "eval-every": self.evaluate,
            "log-every": 1,
        }
        args |= {"eval-samples": 64, "compile": self.backend}
        slow = {"LD_PRELOAD": str(library), "SLOW_FOLDER": str(runs), "SLOW_BYTES": str(self.disk)}
        return {
            "name": "false-alarms",
            "workload": "pretrain",
            "cluster": str(ROOT / "jobs" / "clusters" / "laptop.yaml"),
            "walltime": "4h",
            "nodes": len(RANKS),
            "model": self.model,
            "batch": {"micro": 4},
            "deepspeed": "zero1",
            "args": args,
            "checkpoint": {"every": self.checkpoint, "keep": 1},
            "env": slow,
        }


class Silence(NamedTuple):
    """Seconds without a sign of life, and the limit that they had."""

    seconds: float
    limit: float

    @property
    def share(self) -> float:
        return self.seconds / self.limit


class Looks:
    """What the node entries see of both ranks, and how they judge it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paces = {rank: pace.Pace() for rank in RANKS}
        self._found: dict[int, tuple[int, Path]] = {}  # rank → its process, the folder of its record
        self.longest: dict[str, Silence] = {}
        self.beats: dict[int, heartbeat.Beat] = {}

    def look(self, now: float) -> None:
        """One look, at a time of CLOCK_MONOTONIC."""
        for rank, judged in self._paces.items():
            if rank not in self._found:
                if not (found := rank_shell.find(str(self._folder), rank)):
                    continue
                self._found[rank] = int(found[0]), Path(found[1][heartbeat.VARIABLE])
            pid, told = self._found[rank]
            beat = heartbeat.read(heartbeat.path(told, rank))
            if beat is None:  # it has ended
                continue
            log = self._folder / "logs" / f"rank-{rank}.log"
            self.beats[rank] = beat
            judged.see(pace.Signs(beat, log.stat().st_size, processes.moved(pid)), now)
            if (limit := judged.limit) is not None:
                here = Silence(judged.silent(now), limit)
                self.longest[judged.phase] = max(self.longest.get(judged.phase, here), here)

    def spent(self, phase: str) -> float:
        """Seconds that a rank was in a phase, all together, the one that it is in included."""
        beat = self.beats.get(0)
        if beat is None:
            return 0.0
        left = time.monotonic() - (beat.since or 0.0) if beat.phase == phase else 0.0
        return beat.spent.get(phase, 0.0) + left


def alarms(folder: Path) -> list[str]:
    """All that says, in a run folder, that the run hung or failed."""
    found = []
    with contextlib.suppress(OSError):
        for line in (folder / "events.jsonl").read_text().splitlines():
            if json.loads(line)["event"] in {"stalled", "failed"}:
                found.append(line)
    with contextlib.suppress(OSError):
        lines = (folder / "logs" / "job.log").read_text(errors="replace").splitlines()
        found += [line for line in lines if any(words in line for words in SAYS)]
    found += [f"{path.relative_to(folder)} is there" for path in sorted((folder / "stacks").glob("*"))]
    return found


def missing(looks: Looks, slow: float) -> list[str]:
    """Phases that have not been, or checkpoints that were not slow: nothing is known of them then."""
    found = [f"there was no {phase}" for phase in PHASES if not looks.spent(phase)]
    took = looks.spent(heartbeat.CHECKPOINT)
    return found + ([f"checkpoints took {took:.0f} s, and not {slow:.0f}"] if 0 < took < slow else [])


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many other programs compute meanwhile."""
    words = [sys.executable, "-c", BUSY]
    started = [subprocess.Popen(words) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def slow_writes(folder: Path) -> Path:
    """The library of slow_writes.c. Raises CalledProcessError where it cannot be compiled."""
    library = folder / "slow_writes.so"
    source = Path(__file__).with_name("slow_writes.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def launch(folder: Path, trial: Trial) -> Path:
    """Submit the job; returns its run folder."""
    runs = folder / "runs"
    job = folder / "job.yaml"
    job.write_text(json.dumps(trial.job(slow_writes(folder), runs)))
    words = [sys.executable, "-m", "launcher", "local", str(job), "--set", "cluster.slots=1"]
    env = os.environ | {"LAUNCHER_RUNS": str(runs)}
    done = subprocess.run(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return runs / done.stdout.strip()


def follow(folder: Path, seconds: float, slow: float) -> Looks:
    """Look at the run until it has ended, or all phases have been and `seconds` are over: then it is killed."""
    looks, began = Looks(folder), time.monotonic()
    try:
        while not (folder / "exit_code").exists():
            looks.look(now := time.monotonic())
            if now - began > seconds * (2 if missing(looks, slow) else 1):
                break
            time.sleep(1.0)
    finally:
        if not (folder / "exit_code").exists():
            native = json.loads((folder / "run.json").read_text())["native_id"]
            os.killpg(int(native.partition(":")[0]), signal.SIGKILL)  # ranks follow their node entry
    return looks


def measure(trial: Trial) -> dict[str, Any]:
    """What the run showed; `problems` is empty where nothing was told that was not so."""
    with tempfile.TemporaryDirectory(prefix="false-alarms-") as made, busy(trial.load):
        began = time.monotonic()
        folder = launch(Path(made), trial)
        looks = follow(folder, 60 * trial.minutes, trial.slow)
        problems = alarms(folder) + missing(looks, trial.slow)
        with contextlib.suppress(OSError):
            if (code := (folder / "exit_code").read_text().strip()) != "0":
                problems.append(f"the run ended with {code}")
        return {
            "minutes": (time.monotonic() - began) / 60,
            "load": os.getloadavg()[2],
            "step": max((beat.step for beat in looks.beats.values()), default=0),
            "phases": {
                phase: {"spent": looks.spent(phase), **silence._asdict()}
                for phase, silence in looks.longest.items()
            },
            "problems": problems,
        }


def text(found: dict[str, Any]) -> str:
    """For a person."""
    lines = [
        f"{found['minutes']:.1f} minutes, {found['step']} steps, load average {found['load']:.1f} (15 minutes)",
        f"{'phase':12} {'all seconds':>12} {'longest silence':>16} {'limit':>8} {'share':>7}",
    ]
    for phase, one in found["phases"].items():
        share = one["seconds"] / one["limit"]
        lines.append(
            f"{phase:12} {one['spent']:12.1f} {one['seconds']:16.1f} {one['limit']:8.0f} {share:7.1%}"
        )
    return "\n".join([*lines, *(found["problems"] or ["no false alarm"])])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.false_alarms", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--load", type=int, default=Trial.load, help="programs that compute meanwhile")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = measure(Trial(minutes=args.minutes, load=args.load))
    print(json.dumps(found) if args.json else text(found))
    raise SystemExit(1 if found["problems"] else 0)


if __name__ == "__main__":
    main()

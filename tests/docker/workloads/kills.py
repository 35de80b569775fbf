"""SIGKILL while a checkpoint is written in the background, again and again, and what is on disk afterwards.

Owns the moments and the judgement: `complete.json` lies if a file that it lists is missing, short or has other bytes,
or if it does not list the states of each rank. After each kill the run goes on from what is there.

    PYTHONPATH=docker python -m tests.docker.workloads.kills FOLDER NUMBER SEED     what was found, as a line of JSON
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workloads import checkpoint_folder, digests

from tests.docker.workloads import ranks

CONFIG = ranks.deepspeed(2, stage=2, micro=1)
WORDS = (
    "--seq-length=16",
    "--log-every=1",
    "--checkpoint-every=1",
    "--checkpoint-keep=3",
    "--checkpoint-async",
)
SPREAD = 0.3  # seconds, within which a moment lies
MODEL = {
    **ranks.GPT2,
    "n_embd": 256,
    "n_layer": 4,
}  # 3 million parameters: a checkpoint takes as long as several steps


@dataclass
class Found:
    """Of all kills: those that left a checkpoint unfinished, complete ones at the end, and lies, in words."""

    kills: int = 0
    torn: int = 0
    complete: int = 0
    lies: list[str] = field(default_factory=list)


def run(folder: Path, number: int, seed: int = 0) -> Found:
    """Kill the ranks of one run so often: in turn both of them, the second, and the first."""
    chance, found = random.Random(seed), Found()
    for kill in range(number):
        started = ranks.start(folder, 2, CONFIG, *WORDS, "--max-steps=1000000", model=MODEL)
        saved = len(started.events("checkpoint"))
        started.wait_until(lambda: len(started.events("checkpoint")) > saved)  # noqa: B023
        unfinished(started.run_dir, started)
        time.sleep(chance.uniform(0, SPREAD) if kill else 0.0)
        for process in [started.processes, started.processes[1:], started.processes[:1]][kill % 3]:
            process.kill()
        time.sleep(SPREAD)  # in which one that is left could do harm
        started.kill()
        found.kills += 1
        torn, lies = judge(started.run_dir / checkpoint_folder.FOLDER)
        found.torn += torn
        found.lies += lies
        print(
            f"kill {found.kills}: {'unfinished' if torn else 'whole'}, {len(found.lies)} lies so far",
            flush=True,
        )
    found.complete = len(list((folder / "run/checkpoints").glob("*/complete.json")))
    return found


def unfinished(run_dir: Path, started: ranks.Ranks) -> None:
    """Wait until a checkpoint has begun that is not complete."""
    folder = run_dir / checkpoint_folder.FOLDER
    started.wait_until(lambda: any(not (path / "complete.json").exists() for path in folder.glob("step-*")))


def judge(folder: Path) -> tuple[bool, list[str]]:
    """Whether the newest checkpoint is unfinished, and lies of those that are complete by their own word."""
    lies = []
    for path in checkpoint_folder.newest_first(folder):
        if not (path / checkpoint_folder.MARKER).exists():
            continue
        try:
            read = checkpoint_folder.read(path)
        except ValueError as error:
            lies.append(f"{path.name}: {error}")
            continue
        lies += [f"{path.name}: {reason}" for reason in digests.damaged(path, read.digests, read.digests)]
        listed = json.loads((path / checkpoint_folder.MARKER).read_text())["files"]
        if sum("optim_states" in name for name in listed) != 2:
            lies.append(f"{path.name}: it has not the states of both ranks")
    newest = next(iter(checkpoint_folder.newest_first(folder)), None)
    return newest is not None and not (newest / checkpoint_folder.MARKER).exists(), lies


if __name__ == "__main__":
    print(json.dumps(asdict(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))), flush=True)

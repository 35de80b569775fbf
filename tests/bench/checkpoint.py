"""How long training stands still for a checkpoint, written at once and while it goes on, and what hashing costs of it.

    PYTHONPATH=docker python -m tests.bench.checkpoint [--stage 2] [--every 10] [--json]
    PYTHONPATH=docker python -m tests.bench.checkpoint --kills 200

Owns the comparison: pretraining of a GPT-2 of 40 million parameters in fp32 on two CPU ranks of this machine, three
checkpoints each way. The first copy has its memory made, the others have it from the one before. A synchronous save
ends on the disk of --folder (fsync), so the ratio is of that disk. With --kills: SIGKILL at as many moments of saving
(tests/docker/workloads/kills.py), and how many files complete.json that lie were left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.docker.workloads import kills, ranks

GPT2 = {**ranks.GPT2, "n_embd": 528, "n_layer": 12, "n_head": 8}
PARAMETERS = 40_000_000
SAVES = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.checkpoint")
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), default=2, help="of ZeRO")
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument(
        "--folder", type=Path, help="on the disk that is written to (default: a temporary one)"
    )
    parser.add_argument("--kills", type=int, metavar="N", help="kill so often instead")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        figures = killed(Path(folder), args.kills) if args.kills else measured(Path(folder), args)
    if args.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:44} {value}")


def killed(folder: Path, number: int) -> dict[str, Any]:
    found = kills.run(folder, number)
    for lie in found.lies:
        print(lie)
    return {
        "kills": found.kills,
        "that left a checkpoint unfinished": found.torn,
        "complete.json that lie": len(found.lies),
    }


def measured(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    runs = {how: train(folder / how, args, how) for how in ("no-async", "async")}
    stalls = {
        how: [event["seconds"] for event in run.events("checkpoint")[:SAVES]] for how, run in runs.items()
    }
    steps = {how: statistics.median(s["step_seconds"] for s in run.steps()[1:]) for how, run in runs.items()}
    written = [event["written"] for event in runs["async"].events("checkpoint")[:SAVES]]
    sync, later = statistics.median(stalls["no-async"]), statistics.median(stalls["async"][1:])
    size, hashing = hashed(runs["no-async"].run_dir)
    return {
        "parameters": runs["async"].events("start")[0]["parameters"],
        "bytes of the largest rank": size,
        "synchronous: training stands still, s": round(sync, 3),
        "asynchronous: the first copy, s": round(stalls["async"][0], 3),
        "asynchronous: the others, s": round(later, 3),
        "asynchronous: of the synchronous one": f"{later / sync:.1%}",
        "asynchronous: written after, s": round(statistics.median(written), 3),
        "hashing as many bytes, s": round(hashing, 3),
        "hashing: of the synchronous one": f"{hashing / sync:.1%}",
        "a step beside synchronous saving, s": round(steps["no-async"], 3),
        "a step beside asynchronous saving, s": round(steps["async"], 3),
    }


def train(folder: Path, args: argparse.Namespace, how: str) -> ranks.Ranks:
    folder.mkdir()
    # the one at the end, which is one more, is left out: training waits for it
    last = (SAVES + 1) * args.every - 1
    option = "--checkpoint-async" if how == "async" else "--no-checkpoint-async"
    words = [f"--max-steps={last}", f"--checkpoint-every={args.every}", option]
    config = ranks.deepspeed(2, stage=args.stage, micro=1)
    run = ranks.start(
        folder, 2, config, "--seq-length=32", "--log-every=1", "--checkpoint-keep=1", *words, model=GPT2
    )
    assert run.wait(3600) == [0, 0], run.output()
    assert run.events("start")[0]["parameters"] >= PARAMETERS
    return run


def hashed(run_dir: Path) -> tuple[int, float]:
    """Bytes of the rank that wrote most, and the seconds that their digests take."""
    import xxhash

    tag = max((run_dir / "checkpoints").glob("step-*"))
    files = list(tag.glob("*.pt"))
    mine = [file for file in files if "optim_states" not in file.name or "pp_rank_0_" in file.name]
    spent = 0.0
    for file in mine:
        data = file.read_bytes()
        began = time.perf_counter()
        xxhash.xxh3_128(data).hexdigest()
        spent += time.perf_counter() - began
    return sum(file.stat().st_size for file in mine), spent


if __name__ == "__main__":
    main()

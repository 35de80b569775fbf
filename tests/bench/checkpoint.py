"""How long training stands still for a checkpoint, written at once and while it goes on, and what hashing costs of it.

    PYTHONPATH=docker python -m tests.bench.checkpoint [--stage 2] [--saves 5] [--folder DIR] [--json]
    PYTHONPATH=docker python -m tests.bench.checkpoint --kills 200

Owns the comparison: the states of a GPT-2 of 40 million parameters in fp32 on two CPU ranks of this machine, saved in
turn each way, so that whatever else the machine does is shared. Medians; the first copy, which has its memory made, is
told apart. A synchronous save ends on the disk of --folder (fsync), so the ratio is of that disk. With --kills: SIGKILL
at as many moments of saving (tests/docker/workloads/kills.py), and how many files complete.json that lie were left.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.docker.workloads import kills, ranks

GPT2 = {**ranks.GPT2, "n_embd": 528, "n_layer": 12, "n_head": 8}
PARAMETERS = 40_000_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.checkpoint")
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), default=2, help="of ZeRO")
    parser.add_argument("--saves", type=int, default=5, help="of each kind")
    parser.add_argument(
        "--folder", type=Path, help="on the disk that is written to (default: a temporary one)"
    )
    parser.add_argument("--kills", type=int, metavar="N", help="kill so often instead")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if "RANK" in os.environ:
        print(json.dumps(saved(args)), flush=True)
        os._exit(0)
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
    words = [f"--stage={args.stage}", f"--saves={args.saves}", f"--folder={folder}"]
    run = ranks.start(folder, 2, {}, *words, module="tests.bench.checkpoint", given=())
    assert run.wait(3600) == [0, 0], run.output()
    found: dict[str, Any] = json.loads(run.output(0).splitlines()[-1])
    sync, (first, *later) = statistics.median(found["at once"]), found["behind"]
    stall, hashing = statistics.median(later), statistics.median(found["hashing"])
    return {
        "parameters": found["parameters"],
        "bytes that rank 0 writes": found["bytes"],
        "synchronous: training stands still, s": f"{sync:.3f} (least {min(found['at once']):.3f})",
        "asynchronous: the first copy, s": f"{first:.3f}",
        "asynchronous: the others, s": f"{stall:.3f} (least {min(later):.3f})",
        "asynchronous: of the synchronous one": f"{stall / sync:.1%}",
        "hashing, s": f"{hashing:.3f}",
        "hashing: of the synchronous one": f"{hashing / sync:.1%}",
    }


def saved(args: argparse.Namespace) -> dict[str, Any]:
    """One rank: the seconds of each save, by kind, and those of them that digests took."""
    sys.path.insert(0, str(ranks.DOCKER))
    from workloads import checkpoint_folder, checkpoints, engines, metrics, saver, session, training_options

    this = session._start(args.folder / "run")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    parser = argparse.ArgumentParser()
    training_options.optimization(parser.add_argument_group())
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**GPT2))
    engine = engines.start(model, ranks.deepspeed(2, stage=args.stage, micro=1), parser.parse_args([]))
    inputs = torch.zeros(1, 32, dtype=torch.long)
    engine.backward(engine(input_ids=inputs, labels=inputs).loss)
    engine.step()  # which makes the moments
    log = metrics.Log(this.run_dir, this.rank == 0)
    kinds = {"at once": saver.Saver(this, log), "behind": saver.Saver(this, log, goes_on=True)}
    identity = checkpoint_folder.Identity("", "", "", "", 2, args.stage, "fp32")
    spent: dict[str, list[float]] = {"at once": [], "behind": [], "hashing": []}
    hashing = timed_digests()
    for step in range(1, 2 * args.saves + 1):
        kind = list(kinds)[step % 2]
        before, began = sum(hashing), time.perf_counter()
        checkpoints.save(engine, kinds[kind], checkpoint_folder.Progress(step), identity, keep=1)
        spent[kind].append(time.perf_counter() - began)
        if kind == "at once":
            spent["hashing"].append(sum(hashing) - before)
        kinds[kind].settle()
    (tag,) = (this.run_dir / "checkpoints").glob("step-*")
    mine = [f for f in tag.glob("*.pt") if "optim_states" not in f.name or "pp_rank_0_" in f.name]
    parameters = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
    assert parameters >= PARAMETERS
    return {**spent, "parameters": parameters, "bytes": sum(file.stat().st_size for file in mine)}


def timed_digests() -> list[float]:
    """The seconds of each piece that is hashed in this process from now on."""
    import xxhash

    plain, spent = xxhash.xxh3_128, []

    class Timed:
        def __init__(self, data: bytes = b"") -> None:
            self._digest = plain(data)
            self.hexdigest = self._digest.hexdigest

        def update(self, data: bytes) -> None:
            began = time.perf_counter()
            self._digest.update(data)
            spent.append(time.perf_counter() - began)

    xxhash.xxh3_128 = Timed  # type: ignore[assignment,misc]
    return spent


if __name__ == "__main__":
    main()

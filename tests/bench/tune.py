"""Tuning against trying everything: how near the best its result is, and what it costs.

    python -m tests.bench.tune [--model byte-gpt] [--length 256] [--steps 3] [--all 48]

Owns the comparison, on two CPU ranks of this machine, over 24 configurations: three stages, with and without activation
checkpointing, four micro batches. Everything is tried with `--all` steps, those that the third round of a tuning run
has. Ranks count processor seconds where they otherwise read the clock, so that a busy machine changes little: a step's
are those of rank 0, and costs are of all processes, the ranks' start included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from launcher import ROOT
from launcher.planning import space, tuning
from launcher.rendering import command
from tests import samples

SPACE = ["preset=zero1,zero2,zero3", "checkpointing=true,false", "micro=1,2,4,8"]
LIMIT = 60_000  # seconds of a trial: the machine may be busy
START = """
import runpy, sys, time
time.perf_counter = time.process_time
runpy.run_module("workloads.pretrain", run_name="__main__", alter_sys=True)
"""


class Tried(NamedTuple):
    """The lines of trials.jsonl, and processor seconds of all processes."""

    lines: list[dict[str, Any]]
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tune", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="byte-gpt")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="of the first round")
    parser.add_argument("--all", type=int, default=48, help="steps of each where everything is tried")
    args = parser.parse_args()
    document = candidates(args)
    with tempfile.TemporaryDirectory() as folder:
        tuned = run(Path(folder) / "tuned", document)
        apart = [{**document, "steps": args.all, "trials": [trial]} for trial in document["trials"]]
        every = [run(Path(folder) / str(number), one) for number, one in enumerate(apart)]
    report(document, tuned, every)


def candidates(args: argparse.Namespace) -> dict[str, Any]:
    """What the hosts of a tuning run of such a job get."""
    job = [f"model={args.model}", f"args={{seq-length: {args.length}}}", "batch={micro: 1, global: 16}"]
    loaded = samples.loaded("jobs/quickstart.yaml", settings=job)
    wishes = tuning.Wishes(space.parse(SPACE), steps=args.steps, limit=LIMIT, most=24)
    plan = tuning.make(loaded, samples.SITE, "", wishes)
    assert plan.tuning
    assert len(plan.tuning.trials) == 24, [entry.why for entry in plan.tuning.left_out]
    document: dict[str, Any] = json.loads(command.trials(plan))
    for trial in document["trials"]:
        trial["words"] = ["-c", START, *trial["words"][2:]]
    return document


def run(folder: Path, document: dict[str, Any]) -> Tried:
    """The trials, run by what runs on the hosts."""
    folder.mkdir()
    (folder / "trials.json").write_text(json.dumps(document))
    (folder / "hostfile").write_text("127.0.0.1 slots=2\n")
    env = {**os.environ, "HOSTFILE": str(folder / "hostfile"), "NODE_RANK": "0", "DS_ACCELERATOR": "cpu"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "docker")}
    env |= {"DATA_CACHE": str(folder.parent / "data")}
    words = [f"--trials={folder / 'trials.json'}", f"--folder={folder}", f"--run=bench-{folder.name}"]
    before = spent()
    subprocess.run([sys.executable, "-m", "tune", *words], env=env, check=True, stdout=sys.stderr)
    seconds = spent() - before
    print(f"{folder.name}: {seconds:.0f} processor seconds", file=sys.stderr, flush=True)
    return Tried([json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()], seconds)


def spent() -> float:
    """Processor seconds of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(document: dict[str, Any], tuned: Tried, every: list[Tried]) -> None:
    """A table of all, and what tuning chose, lost and cost."""
    names = [trial["name"] for trial in document["trials"]]
    times = {
        name: one.lines[0]["step_seconds"] or float("inf") for name, one in zip(names, every, strict=True)
    }
    by_tune = {names[line["trial"]]: line for line in sorted(tuned.lines, key=lambda line: line["steps"])}
    print(f"{'configuration':34} {'s/step':>8} {'of the best':>11}  {'tune: steps':>11} {'s/step':>8}")
    for name in sorted(times, key=lambda name: times[name]):
        line = by_tune.get(name, {"steps": 0, "step_seconds": None})
        own = f"{line['step_seconds']:8.3f}" if line["step_seconds"] else f"{'-':>8}"
        share = times[name] / min(times.values())
        print(f"{name:34} {times[name]:8.3f} {share:11.3f}  {line['steps'] or '-':>11} {own}")
    halving = importlib.import_module("halving")
    results = [halving.Result(*(line[key] for key in halving.Result._fields)) for line in tuned.lines]
    chosen = names[halving.ranked(results)[0].trial]
    whole = sum(one.seconds for one in every)
    print(
        f"tune chose {chosen}: {times[chosen] / min(times.values()) - 1:.1%} above the best of all, after "
        f"{len(tuned.lines)} trials; {tuned.seconds:.0f} processor seconds against {whole:.0f}: "
        f"{tuned.seconds / whole:.0%}"
    )


if __name__ == "__main__":
    main()

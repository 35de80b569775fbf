"""Tuning against trying everything: how near the best its result is, and what it costs.

    python -m tests.bench.tune [--model byte-gpt] [--length 128] [--steps 3] [--all 24]

Owns the comparison, on two CPU ranks of this machine, over 24 configurations: three stages, with and without activation
checkpointing, four micro batches. What is tried next is decided by what decides on a run's hosts (docker/halving.py).
Where everything is tried, each has `--all` steps; the best few, and what tuning chose, are then tried twice more in
turn, and the median counts. Ranks count processor seconds where they otherwise read the clock (counted.py), so that a
busy machine changes little; costs are of both ranks. They are forks of a process that has imported what they need; what
a new interpreter takes for that is measured once, and told apart.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from launcher import entry
from launcher.planning import space, tuning
from launcher.rendering import command
from tests import samples
from tests.docker.workloads import forks, ranks

halving: Any = entry.module("halving")
RANKS = 2
SPACE = ["preset=zero1,zero2,zero3", "checkpointing=true,false", "micro=1,2,4,8"]
AGAIN, FEW = 2, 3  # times that the best few are tried again, and how many they are
SECONDS = 3600.0  # of a trial: the machine may be busy


class Tried(NamedTuple):
    """A trial: seconds of a step, and of all that both ranks did."""

    step: float
    whole: float


class Bench:
    """The trials of a tuning run of such a job, as its hosts get them, and a folder for their files."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        job = [f"model={args.model}", f"args={{seq-length: {args.length}}}", "batch={micro: 1, global: 16}"]
        loaded = samples.loaded("jobs/quickstart.yaml", settings=job)
        wishes = tuning.Wishes(space.parse(SPACE), steps=args.steps, limit=int(SECONDS), most=24)
        plan = tuning.make(loaded, samples.SITE, "", wishes)
        assert plan.tuning
        assert len(plan.tuning.trials) == 24, [entry.why for entry in plan.tuning.left_out]
        self.entries: list[dict[str, Any]] = json.loads(command.trials(plan))["trials"]
        self.trials = [
            halving.Trial(e["group"], e["micro"], e["bound"], tuple(e["less"])) for e in self.entries
        ]
        self.folder, self.number = folder, 0

    def run(self, trial: int, steps: int) -> Tried:
        """Train so many steps with a configuration."""
        entry_, self.number = self.entries[trial], self.number + 1
        folder = self.folder / str(self.number)
        folder.mkdir()
        never = [f"--max-steps={steps}", "--checkpoint-every=0", "--checkpoint-keep=0"]
        started = ranks.start(
            folder,
            RANKS,
            entry_["config"],
            *entry_["words"][2:],
            *never,
            module="tests.bench.counted",
            given=("deepspeed-config", "run-dir"),
        )
        assert started.wait(SECONDS) == [0] * RANKS, started.output()
        step = halving.seconds([line["step_seconds"] for line in started.steps()])
        used = [float(started.output(rank).split()[-1]) for rank in range(RANKS)]
        tried = Tried(step, sum(used))
        told = f"{entry_['name']}, {steps} steps: {step:.3f} s each, {tried.whole:.1f} s in all"
        print(told, file=sys.stderr, flush=True)
        return tried


def start() -> float:
    """Processor seconds that one new interpreter takes to import what a rank needs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = "from workloads import imports; imports.transformers(); imports.deepspeed()"
    words = "; ".join([begin, *(f"import {each}" for each in forks.HEAVY if not each.startswith("trl"))])
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ranks.DOCKER)!r}); {words}"], check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def tuned(bench: Bench, first: int) -> tuple[list[Any], list[Tried]]:
    """The results of successive halving, and what each of its trials took."""
    results, tried = list[Any](), list[Tried]()
    while chosen := halving.following(bench.trials, first, results):
        tried.append(bench.run(chosen.trial, chosen.steps))
        results.append(halving.Result(chosen.trial, chosen.steps, halving.DONE, tried[-1].step))
    return results, tried


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tune", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="byte-gpt")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3, help="of the first round")
    parser.add_argument("--all", type=int, default=24, help="steps of each where everything is tried")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        alone = start()
        results, tried = tuned(bench, args.steps)
        chosen = halving.ranked(results)[0].trial
        every = [bench.run(trial, args.all) for trial in range(len(bench.trials))]
        best = sorted(range(len(every)), key=lambda trial: every[trial].step)[:FEW]
        steps = {trial: [one.step] for trial, one in enumerate(every)}
        for _ in range(AGAIN):
            for trial in dict.fromkeys([*best, chosen]):
                steps[trial].append(bench.run(trial, args.all).step)
    times = [statistics.median(steps[trial]) for trial in range(len(every))]
    table(bench, times, results)
    off = times[chosen] / min(times) - 1
    print(
        f"tune chose {bench.entries[chosen]['name']}: {off:.1%} above the best of all, after {len(tried)} trials"
    )
    for what, each in (("", 0.0), (", new interpreters included", RANKS * alone)):
        own, whole = (sum(one.whole + each for one in some) for some in (tried, every))
        print(f"{own:.0f} processor seconds against {whole:.0f}: {own / whole:.0%}{what}")


def table(bench: Bench, times: list[float], results: list[Any]) -> None:
    """All configurations, the fastest first, and what tuning saw of each."""
    print(f"{'configuration':34} {'s/step':>8} {'of the best':>11}  {'tune: steps':>11} {'s/step':>8}")
    last = {result.trial: result for result in sorted(results, key=lambda result: result.steps)}
    for trial in sorted(range(len(times)), key=times.__getitem__):
        seen = last.get(trial)
        own = f"{seen.steps:>11} {seen.step_seconds:8.3f}" if seen else f"{'-':>11} {'-':>8}"
        print(
            f"{bench.entries[trial]['name']:34} {times[trial]:8.3f} {times[trial] / min(times):11.3f}  {own}"
        )


if __name__ == "__main__":
    main()

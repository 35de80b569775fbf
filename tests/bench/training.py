"""Learning curves of the stages against programs that do the same: TRL, the Hugging Face Trainer, and plain loops.

    python -m tests.bench.training [--seeds 3] [--only STAGE …] [--plot jobs/learning-curves.svg] [--trl-ppo FOLDER]

Owns the comparison; the rivals are in rivals.py. Task, weights, batches, rates and seeds are the same; the rivals run
without DeepSpeed. Where answers are drawn, the plain loops have the workload's random numbers and the libraries their
own; all else is the same step by step, and the largest difference at a step is printed. What is compared is the mean of
the last steps over the seeds: two are alike when they differ by less than three standard errors of that difference, or
by less than a hundredth. Three seeds tell little of one program's noise, so that of all programs of a stage counts.

TRL's PPO is in its releases up to 1.6 only; with --trl-ppo it is compared too, once
`pip install --no-deps --target FOLDER trl==1.6.0` has put one there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

from tests.bench import learning_curves, toy
from tests.docker.workloads import ranks

LAST = 5  # steps that are compared
HERE = "here"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.training", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=toy.STAGES, default=list(toy.STAGES))
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves: .svg, .png or .pdf")
    parser.add_argument("--trl-ppo", type=Path, metavar="FOLDER", help="a TRL that has a PPOTrainer")
    args = parser.parse_args()
    sys.path.insert(0, str(ranks.DOCKER))
    os.environ.update(
        dict.fromkeys(("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"), "1")
    )
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch

    torch.set_num_threads(1)  # models this small only lose by more
    curves, alike = {}, True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        toy.prepare(folder)
        ours = our_curves(folder, args.only, args.seeds)
        print(f"{args.seeds} seeds, mean and standard deviation of the last {LAST} steps")
        print(f"{'stage':9} {'figure':7} {'program':12} {'first':>7}  {'last':>16}  {'at a step':>9}  alike")
        for stage in args.only:
            rivals = their_curves(folder, stage, args.seeds, args.trl_ppo)
            curves[stage] = {HERE: ours[stage], **rivals}
            alike &= report(stage, curves[stage])
    if args.plot:
        learning_curves.write(args.plot, curves)
    raise SystemExit(0 if alike else 1)


def our_curves(folder: Path, stages: list[str], seeds: int) -> dict[str, list[list[float]]]:
    """Of each stage and seed, the figure of each step by this project's workload, on one rank."""
    cases = []
    for stage in stages:
        workload, words, _, steps, rate = toy.STAGES[stage]
        shared = (f"--model={folder / 'tiny'}", f"--data={folder / 'data.jsonl'}", f"--max-steps={steps}")
        numbers = (f"--lr={rate}", f"--seq-length={toy.LENGTH}", "--log-every=1", "--weight-decay=0")
        config = ranks.deepspeed(1, 1, micro=8, accumulation=2, gradient_clipping=1.0)
        for seed in range(seeds):
            run = {"run_dir": str(folder / f"{stage} {seed}"), "workload": workload, "config": config}
            cases.append({**run, "words": [*shared, *numbers, *words, f"--seed={seed}"]})
    (folder / "cases.json").write_text(json.dumps(cases))
    started = ranks.start(
        folder, 1, {}, str(folder / "cases.json"), module="tests.docker.workloads.cuts", given=()
    )
    if set(started.wait(3600)) != {0}:
        raise SystemExit(started.output())
    return {stage: [_curve(folder / f"{stage} {seed}", stage) for seed in range(seeds)] for stage in stages}


def _curve(run: Path, stage: str) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[toy.STAGES[stage].figure] for line in lines if "event" not in line]


def their_curves(folder: Path, stage: str, seeds: int, trl_ppo: Path | None) -> dict[str, list[list[float]]]:
    """Of each rival and seed, the figure of each step; `trl_ppo` holds a TRL that has a PPOTrainer."""
    from tests.bench import rivals

    curves = {}
    if stage != "ppo":
        name = "Trainer" if stage == "finetune" else "TRL"
        curves[name] = [rivals.library(folder, stage, seed) for seed in range(seeds)]
    elif trl_ppo:
        curves["TRL 1.6"] = [rivals.published_ppo(folder, seed, trl_ppo) for seed in range(seeds)]
    return {**curves, "plain loop": [rivals.plain(folder, stage, seed) for seed in range(seeds)]}


def report(stage: str, programs: dict[str, list[list[float]]]) -> bool:
    """Print a row for each program; returns whether all rivals are like ours."""
    ends = {
        program: [statistics.fmean(curve[-LAST:]) for curve in curves] for program, curves in programs.items()
    }
    spreads = {program: statistics.stdev(end) if len(end) > 1 else 0.0 for program, end in ends.items()}
    noise = statistics.fmean(spread**2 for spread in spreads.values()) ** 0.5
    error = noise * (2 / len(ends[HERE])) ** 0.5
    all_alike = True
    for program, curves in programs.items():
        last = statistics.fmean(ends[program])
        alike = abs(last - statistics.fmean(ends[HERE])) <= max(3 * error, 0.01)
        all_alike &= alike
        first = statistics.fmean(curve[0] for curve in curves)
        pairs = zip(curves, programs[HERE], strict=True)
        apart = max(abs(a - b) for theirs, ours in pairs for a, b in zip(theirs, ours, strict=True))
        answer = "" if program == HERE else f"{apart:9.1e}  {'yes' if alike else 'NO'}"
        numbers = f"{first:7.4f}  {last:7.4f} ± {spreads[program]:.4f}  {answer}"
        print(f"{stage:9} {toy.STAGES[stage].figure:7} {program:12} {numbers}", flush=True)
    return all_alike


if __name__ == "__main__":
    main()

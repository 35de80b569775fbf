"""First steps, one switch at a time: `python -m workloads.startup`, once per rank.

Owns which switches there are and what each should show; they are measured by trials.py on the same batches. Every
switch is a few keys of DeepSpeed's config, written out in `switches` below, so this file is the lesson.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from workloads import architectures, engines, metrics, options, session, training_options, trials
from workloads.session import Stop
from workloads.traits import Traits

if TYPE_CHECKING:
    from workloads.session import Session

TRAITS = Traits()

FILE = "startup.json"
NAMES = (
    "data-parallel",
    "mixed-precision",
    "zero",
    "accumulation",
    "clipping",
    "activation-checkpointing",
    "all",
)
HEAD = ("switch", "states", "activations", "peak", "seconds", "tokens/s", "norm", "loss", "what it does")


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.startup",
        description="Show what each of DeepSpeed's first switches changes in memory and time.",
        allow_abbrev=False,
    )
    options.launcher(command, only=("deepspeed-config", "run-dir", "model"))
    group = command.add_argument_group("lesson")
    group.add_argument(
        "--switches",
        nargs="+",
        choices=NAMES,
        default=list(NAMES),
        metavar="NAME",
        help=f"which: {', '.join(NAMES)}",
    )
    group.add_argument(
        "--seq-length", type=options.positive, default=256, metavar="N", help="tokens of a sample"
    )
    training_options.optimization(group)
    command.set_defaults(max_steps=8)
    return command


def switches(config: dict[str, Any], size: engines.BatchSize) -> dict[str, tuple[dict[str, Any], str]]:
    """Each switch's DeepSpeed config, and what it does. `config` gives the batch."""
    plain = {key: config[key] for key in engines.BATCH}
    # every rank has the whole model and its own samples; gradients are averaged with one all-reduce
    data_parallel = {**plain, "zero_optimization": {"stage": 0}}
    # weights, gradients and activations in bfloat16, with an fp32 copy of the weights for the optimizer
    mixed = {"bf16": {"enabled": True}}
    # the optimizer's states and the gradients are divided among the ranks
    zero = {"zero_optimization": {"stage": 2}}
    # the same global batch in twice as many passes of half the samples
    half = {
        "train_micro_batch_size_per_gpu": size.micro // 2,
        "gradient_accumulation_steps": size.accumulation * 2,
    }
    # a gradient longer than this is scaled down to it
    clipping = {"gradient_clipping": 0.1}
    return {
        "data-parallel": (data_parallel, "each rank its own samples: the base that the others change"),
        "mixed-precision": (
            {**data_parallel, **mixed},
            "half the bytes of weights, gradients and activations",
        ),
        "zero": (
            {**data_parallel, **zero},
            "optimizer states and gradients divided among the ranks (ZeRO-2)",
        ),
        "accumulation": ({**data_parallel, **half}, "the same batch in two passes: half the activations"),
        "clipping": ({**data_parallel, **clipping}, "the gradient's norm held to 0.1"),
        "activation-checkpointing": (data_parallel, "layers computed again in backward instead of kept"),
        "all": ({**data_parallel, **mixed, **zero, **half, **clipping}, "everything together"),
    }


def lesson(args: argparse.Namespace, this: Session) -> int:
    """Measure every switch; returns the exit code. Raises Stop when the batch cannot be halved."""
    config, size = this.together(lambda: engines.read(args.deepspeed_config, this.world_size))
    if size.micro % 2:
        raise Stop(f"batch.micro {size.micro} cannot be halved to show accumulation: use an even number")
    if args.max_steps <= trials.WARMUP:
        raise Stop(f"--max-steps {args.max_steps}: the first {trials.WARMUP} are not measured, so use more")
    settings = this.together(lambda: architectures.config(args.model))
    samples = trials.batches(this, args, architectures.vocabulary(settings))
    chosen = {name: switch for name, switch in switches(config, size).items() if name in args.switches}
    measured = []
    for name, (changed, _) in chosen.items():
        checkpointing = name in {"activation-checkpointing", "all"}
        measured.append(trials.run(name, changed, args, this, samples=samples, checkpointing=checkpointing))
        if this.rank == 0:
            print(f"{name} measured: {changed}", flush=True)
    if this.rank == 0:
        print(
            f"{this.world_size} ranks, {measured[0].parameters:,} parameters, {size.total} samples a step; of rank 0:"
        )
        print(metrics.table([HEAD, *(row(t, chosen[t.name][1]) for t in measured)]))
        metrics.write_atomically(this.run_dir / FILE, {"trials": [asdict(trial) for trial in measured]})
    return os.EX_OK


def row(trial: trials.Trial, meaning: str) -> tuple[str, ...]:
    """A trial as a row of the table."""
    return (
        trial.name,
        f"{trial.states / 1e6:,.1f} MB",
        f"{trial.activations / 1e6:,.1f} MB",
        "-" if trial.peak is None else f"{trial.peak / 1e6:,.1f} MB",
        f"{trial.seconds:.3f}",
        f"{trial.tokens_per_second:,.0f}",
        "-" if trial.norm is None else f"{trial.norm:.2f}",
        f"{trial.loss:.4f}",
        meaning,
    )


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), lesson)


if __name__ == "__main__":
    main()

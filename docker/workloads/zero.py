"""The four stages of ZeRO side by side on one model: `python -m workloads.zero`, once per rank.

Owns the comparison with the paper, as a table and as zero.json; the measuring is trials.py's. ZeRO partitions the
optimizer's states (1), gradients too (2) and weights too (3): https://arxiv.org/abs/1910.02054, section 5.
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

FILE = "zero.json"
HEAD = (
    "stage",
    "bytes/parameter",
    "paper",
    "states",
    "activations",
    "tokens/s",
    "seconds",
    "sent/parameter",
    "loss",
)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.zero",
        description="Compare ZeRO's stages: memory of a rank, communication, speed.",
        allow_abbrev=False,
    )
    options.launcher(command, only=("deepspeed-config", "run-dir", "model"))
    group = command.add_argument_group("comparison")
    group.add_argument(
        "--stages",
        nargs="+",
        type=int,
        choices=(0, 1, 2, 3),
        default=[0, 1, 2, 3],
        metavar="STAGE",
        help="which; the DeepSpeed config is otherwise the job's",
    )
    group.add_argument(
        "--seq-length", type=options.positive, default=256, metavar="N", help="tokens of a sample"
    )
    training_options.optimization(group)
    command.set_defaults(max_steps=8)
    return command


def compare(args: argparse.Namespace, this: Session) -> int:
    """Measure every stage on the same batches; returns the exit code."""
    config, _ = this.together(lambda: engines.read(args.deepspeed_config, this.world_size))
    if args.max_steps <= trials.WARMUP:
        raise Stop(f"--max-steps {args.max_steps}: the first {trials.WARMUP} are not measured, so use more")
    settings = this.together(lambda: architectures.config(args.model))
    samples = trials.batches(this, args, architectures.vocabulary(settings))
    measured = []
    for stage in args.stages:
        zero = {**config.get("zero_optimization", {}), "stage": stage}
        whole = {**config, "zero_optimization": zero}
        measured.append(
            trials.run(
                f"ZeRO-{stage}",
                whole,
                args,
                this,
                samples=samples,
                checkpointing=args.activation_checkpointing,
            )
        )
        if this.rank == 0:
            print(f"ZeRO-{stage} measured", flush=True)
    if this.rank == 0:
        mixed = engines.precision(config) != "fp32"
        rows = [
            row(trial, paper(stage, this.world_size, mixed))
            for stage, trial in zip(args.stages, measured, strict=True)
        ]
        print(metrics.table([HEAD, *rows]))
        for trial in measured:
            sent = ", ".join(f"{name} {bytes_ / 1e6:,.2f} MB" for name, bytes_ in trial.communicated.items())
            print(f"{trial.name} sends a step: {sent or 'nothing'}")
        written = [
            {
                "stage": stage,
                "paper_bytes_per_parameter": paper(stage, this.world_size, mixed),
                **asdict(trial),
            }
            for stage, trial in zip(args.stages, measured, strict=True)
        ]
        metrics.write_atomically(this.run_dir / FILE, {"world_size": this.world_size, "trials": written})
    return os.EX_OK


def paper(stage: int, ranks: int, mixed: bool) -> float:
    """Bytes of weights, gradients and Adam's states for each parameter, on each of `ranks` (figure 1 of the paper).

    In mixed precision 2 + 2 + 12 (an fp32 copy of the weights and two moments); in fp32 4 + 4 + 8.
    """
    weights, gradients, optimizer = (2.0, 2.0, 12.0) if mixed else (4.0, 4.0, 8.0)
    kept = [weights, gradients, optimizer]
    for part in range(stage):
        kept[2 - part] /= ranks
    return sum(kept)


def row(trial: trials.Trial, expected: float) -> tuple[Any, ...]:
    """A trial as a row of the table; what is sent is in units of the parameters' number times an element's size."""
    sent = sum(trial.communicated.values()) / trial.parameters
    return (
        trial.name,
        f"{trial.bytes_per_parameter:.2f}",
        f"{expected:.2f}",
        f"{trial.states / 1e6:,.1f} MB",
        f"{trial.activations / 1e6:,.1f} MB",
        f"{trial.tokens_per_second:,.0f}",
        f"{trial.seconds:.3f}",
        f"{sent:.2f} bytes",
        f"{trial.loss:.4f}",
    )


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run(parser(), compare)


if __name__ == "__main__":
    main()

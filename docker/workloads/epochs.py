"""How long a stage learns: --max-steps, or --epochs, which are steps once the examples are counted.

Owns the arithmetic. Examples come epoch after epoch without a seam (examples.order), so the last step of the last epoch
is filled up with examples of the next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workloads import options

if TYPE_CHECKING:
    import argparse

STEPS = 1000  # where neither is given


def add_option(group: argparse._ArgumentGroup) -> None:
    """Add --epochs, and have --max-steps given or not."""
    group.add_argument(
        "--epochs",
        type=options.rate,
        metavar="N",
        help=f"how often to learn each example, instead of --max-steps; neither: {STEPS} steps",
    )
    group.set_defaults(max_steps=None)


def mistake(args: argparse.Namespace) -> str:
    """What is wrong with the two options together; empty where nothing is."""
    if args.epochs is not None and args.max_steps is not None:
        return f"--epochs {args.epochs:g} and --max-steps {args.max_steps} are both given: leave one out"
    return ""


def steps(args: argparse.Namespace, examples: int, batch: int) -> int:
    """The optimizer steps of a run with this many examples and so many of them a step."""
    if args.max_steps is not None:
        return int(args.max_steps)
    if args.epochs is None:
        return STEPS
    return max(1, math.ceil(round(float(args.epochs) * examples / batch, 6)))

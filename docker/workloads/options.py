"""Command-line options that several workloads share, as argparse groups; standard library only.

What the options do is the business of the modules that read them; which ones a job may set is decided
by the launcher, which imports a workload's `parser()` without torch.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Container

LAUNCHER_GROUP = "set by the launcher"
LAUNCHER_OPTIONS = (
    *("deepspeed-config", "run-dir", "model"),
    *("checkpoint-every", "checkpoint-keep", "checkpoint-async"),
    *("checkpoint-mirror", "checkpoint-owner", "resume"),
)
LOCAL_OPTIONS = ("checkpoint-local", "checkpoint-local-every", "checkpoint-local-keep")
WITH_LOCAL = (*LAUNCHER_OPTIONS, *LOCAL_OPTIONS)
_LARGEST = 2**63 - 1  # what torch counts with
INTERRUPTIONS = ("KILL", "TERM", "USR2")
SWITCH = argparse.BooleanOptionalAction


def _bounded(kind: type[int] | type[float], low: float, high: float, meaning: str) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        most = _LARGEST if kind is int else sys.float_info.max
        if value > most or not low <= value <= high:
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            raise argparse.ArgumentTypeError(f"{meaning} is expected, not {shown!r}")
        return value

    return convert


factor = _bounded(int, 2, math.inf, "a whole number of at least 2")
positive = _bounded(int, 1, math.inf, "a whole number of at least 1")
count = _bounded(int, 0, math.inf, "a whole number of at least 0")
port = _bounded(int, 0, 65535, "a port from 0 to 65535")
exit_code = _bounded(int, 1, 255, "an exit code from 1 to 255")
rate = _bounded(float, sys.float_info.min, math.inf, "a number above 0")
number = _bounded(float, 0.0, math.inf, "a number of at least 0")
share = _bounded(float, sys.float_info.min, 1.0, "a number above 0 and up to 1")
fraction = _bounded(float, 0.0, 1.0 - sys.float_info.epsilon, "a number from 0 to below 1")


class HubName:
    """The type of an option whose value may be a name of the hub, which is fetched before the ranks start."""

    def __init__(self, *, weights: bool, others: tuple[str, ...] = ()) -> None:
        """`weights`: with them, else a tokenizer alone. `others`: words that mean something else."""
        self.weights, self.others = weights, others

    def __call__(self, word: str) -> str:
        return word


tokenizer_name = HubName(weights=False, others=("auto", "bytes"))


def launcher(parser: argparse.ArgumentParser, only: Container[str] = LAUNCHER_OPTIONS) -> None:
    """Add the options that the launcher fills in from the job (or `only` some); a job's `args` cannot set them."""
    group = parser.add_argument_group(LAUNCHER_GROUP)

    def add(name: str, **settings: Any) -> None:
        if name in only:
            group.add_argument(f"--{name}", **settings)

    add(
        "deepspeed-config",
        metavar="FILE",
        required=True,
        help="DeepSpeed's JSON, batch numbers included",
    )
    add(
        "run-dir",
        metavar="DIR",
        required=True,
        help="folder of the run, seen by every rank: metrics.jsonl, summary.json and checkpoints/ go here",
    )
    add(
        "model",
        metavar="NAME|PATH",
        required=True,
        help="an architecture of models.json (random weights), a Hugging Face folder or a hub name",
    )
    _checkpoints(add)


def _checkpoints(add: Callable[..., None]) -> None:
    """Add when checkpoints are written, where they are kept, and which one a run starts from."""
    add(
        "checkpoint-every",
        type=count,
        default=0,
        metavar="N",
        help="save every N steps; 0 saves at the end and on a signal only",
    )
    what = "complete checkpoints to keep; 0: none is ever written"
    add("checkpoint-keep", type=count, default=2, metavar="K", help=what)
    add(
        "checkpoint-async",
        action=SWITCH,
        default=False,
        help="write a checkpoint from a copy in host memory while training goes on",
    )
    add(
        "checkpoint-mirror",
        metavar="ADDRESS",
        help="s3://, gs:// or file:// where complete checkpoints are uploaded to, and fetched from when --run-dir has "
        "none that is as new",
    )
    add(
        "checkpoint-owner",
        default="",
        metavar="TEXT",
        help="who runs it, and from where: the run's folder at the mirror is left alone where it is another's",
    )
    add(
        "checkpoint-local",
        metavar="DIR",
        help="a folder on each host's own disk for checkpoints between those of --checkpoint-every",
    )
    add("checkpoint-local-every", type=positive, default=50, metavar="N", help="steps between these")
    add("checkpoint-local-keep", type=positive, default=1, metavar="K", help="how many of these are kept")
    add(
        "resume",
        metavar="DIR",
        help="checkpoints/ of an older run to start from, only read; checkpoints of --run-dir go first",
    )


def reports(group: argparse._ArgumentGroup) -> None:
    """Add what is logged and exported."""
    group.add_argument("--log-every", type=positive, default=10, metavar="N", help="steps between log lines")
    group.add_argument(
        "--tensorboard", action=SWITCH, default=False, help="also write TensorBoard files to tensorboard/"
    )
    group.add_argument("--wandb", metavar="PROJECT", help="also log to this Weights & Biases project")
    group.add_argument(
        "--mlflow",
        metavar="EXPERIMENT",
        help="also log to this MLflow experiment, at MLFLOW_TRACKING_URI or else in mlruns/ of the run's folder",
    )
    group.add_argument(
        "--export",
        action=SWITCH,
        default=False,
        help="at the end write export/: a Hugging Face folder with safetensors and the tokenizer",
    )


def trust(group: argparse._ArgumentGroup) -> None:
    """Add what shows whether the ranks compute what they should."""
    group.add_argument(
        "--verify-every",
        type=count,
        default=0,
        metavar="K",
        help="compare what must be equal on all ranks every K steps and before each checkpoint, and end with 78 where "
        "it is not: what each computes of one input, and but for ZeRO-3 the bits of parameters (replicas.py); 0: never",
    )
    group.add_argument(
        "--digests",
        action=SWITCH,
        default=False,
        help="log a digest of each step's samples, and of parameters and optimizer state with each checkpoint: what "
        "`launcher prove` compares",
    )


def interruption(text: str) -> tuple[int, str]:
    """The step and the signal of STEP:SIGNAL. Raises ArgumentTypeError."""
    step, _, name = text.partition(":")
    if name not in INTERRUPTIONS:
        raise argparse.ArgumentTypeError(
            f"STEP:SIGNAL with {', '.join(INTERRUPTIONS)} is expected, not {text[:60]!r}"
        )
    return int(positive(step)), name


def rehearsal(group: argparse._ArgumentGroup) -> None:
    """Add faults to order, for rehearsing on a cluster what happens when a rank is slow or dies."""
    group.add_argument(
        "--interrupt",
        type=interruption,
        nargs="+",
        default=[],
        metavar="STEP:SIGNAL",
        help="rehearsal: before STEP the rank --fail-rank kills itself (KILL), or has its node entry signalled (TERM, "
        "USR2); the n-th is for the run's n-th attempt",
    )
    group.add_argument(
        "--step-delay", type=number, default=0.0, metavar="SECONDS", help="rehearsal: sleep each step"
    )
    group.add_argument(
        "--delay-rank", type=count, metavar="R", help="rehearsal: which rank sleeps (default: all of them)"
    )
    group.add_argument(
        "--fail-at-step", type=positive, metavar="N", help="rehearsal: a rank dies instead of taking step N"
    )
    group.add_argument("--fail-rank", type=count, default=0, metavar="R", help="rehearsal: which rank dies")
    group.add_argument("--fail-code", type=exit_code, default=1, metavar="C", help="rehearsal: its exit code")
    group.add_argument(
        "--fail-attempts",
        type=positive,
        default=1,
        metavar="N",
        help="rehearsal: die in the first N attempts of the run only, so that the next one can succeed",
    )


def parse(parser: argparse.ArgumentParser, words: list[str] | None = None) -> argparse.Namespace:
    """Parse a rank's command line.

    Raises SystemExit with BAD_INPUT after one message from rank 0; argparse alone would print one
    per rank and exit with 2.
    """

    def error(message: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            print(f"{parser.prog.split('.')[-1]}: error: {message}", file=sys.stderr, flush=True)
        from ending import BAD_INPUT

        raise SystemExit(BAD_INPUT)

    parser.error = error  # type: ignore[method-assign,assignment]
    return parser.parse_args(words)

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


def optimization(group: argparse._ArgumentGroup) -> None:
    """Add steps, schedule and AdamW's settings."""
    group.add_argument("--max-steps", type=positive, default=1000, metavar="N", help="optimizer steps")
    group.add_argument(
        "--lr",
        type=rate,
        default=3e-4,
        metavar="RATE",
        help="highest learning rate; one in the DeepSpeed config's optimizer goes first",
    )
    group.add_argument(
        "--min-lr", type=number, default=0.0, metavar="RATE", help="learning rate at the last step"
    )
    group.add_argument(
        "--warmup-steps", type=count, default=0, metavar="N", help="steps of linear rise to --lr"
    )
    group.add_argument(
        "--schedule",
        choices=("cosine", "linear", "wsd", "constant"),
        default="cosine",
        help="how the rate falls from --lr to --min-lr at the last step; wsd (warm-up, stable, decay) stays at --lr "
        "and falls in a line over the last --decay-share of the steps, so that a run can be made longer before that; "
        "constant never falls",
    )
    group.add_argument(
        "--decay-share", type=share, default=0.1, metavar="X", help="share of --max-steps in which wsd decays"
    )
    group.add_argument(
        "--weight-decay",
        type=number,
        default=0.1,
        metavar="X",
        help="for matrices; biases and norms have none",
    )
    group.add_argument("--beta1", type=fraction, default=0.9, metavar="X", help="AdamW's first moment")
    group.add_argument("--beta2", type=fraction, default=0.95, metavar="X", help="AdamW's second moment")
    group.add_argument(
        "--seed", type=count, default=0, metavar="N", help="for weights, data order and dropout"
    )
    group.add_argument(
        "--activation-checkpointing",
        action=SWITCH,
        default=False,
        help="recompute activations in the backward pass: less memory, about a third more compute",
    )


def language_model(group: argparse._ArgumentGroup) -> None:
    """Add what belongs to pretraining alone: the terms of its loss, its vocabulary, its documents."""
    group.add_argument(
        "--z-loss",
        type=number,
        default=0.0,
        metavar="X",
        help="weight of the squared log-sum of the logits, which keeps it near 0 (PaLM: 1e-4); it is in the gradient, "
        "not in the loss that is logged",
    )
    group.add_argument(
        "--pad-vocab",
        type=positive,
        default=1,
        metavar="N",
        help="make the vocabulary of random weights a multiple of N, which is faster on tensor cores: 64 makes GPT-2's "
        "50257 to 50304",
    )
    group.add_argument(
        "--document-masks",
        action=SWITCH,
        default=False,
        help="keep the documents of a sample apart: attention stays within each, and positions begin anew",
    )


def acceleration(group: argparse._ArgumentGroup) -> None:
    """Add what changes a model's speed and not its results."""
    group.add_argument(
        "--attention",
        choices=("auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"),
        default="auto",
        help="which attention: auto is torch's fused one (sdpa) where the model has it; flash needs its package",
    )
    group.add_argument(
        "--compile",
        metavar="BACKEND",
        help="compile the model by torch.compile with this backend, such as inductor; with DeepCompile's key "
        'in the DeepSpeed config ({"compile": {"deepcompile": true}}, GPU only) its communication too',
    )
    group.add_argument(
        "--sequence-parallel",
        type=positive,
        default=1,
        metavar="N",
        help="ranks that share each sample, for sequences too long for one (DeepSpeed's Ulysses): N divides the ranks, "
        "the attention heads and --seq-length; LLaMA's kind of model with sdpa or flash attention",
    )
    group.add_argument(
        "--liger",
        action=SWITCH,
        default=False,
        help="Liger's fused kernels for norms, rotary embedding, MLP and the loss (GPU only; package liger-kernel)",
    )


def tokens(group: argparse._ArgumentGroup) -> None:
    """Add where text comes from, how it becomes tokens and where these are kept."""
    group.add_argument(
        "--data",
        nargs="+",
        default=["builtin"],
        metavar="SOURCE",
        help="text (.txt, .md, .jsonl, .jsonl.gz, .jsonl.zst, .parquet) or tokens (Megatron's .bin and .idx, nanoGPT's "
        "and llm.c's .bin) as files, folders or globs; hf:NAME[@SUBSET][:SPLIT[:COLUMN]] for a Hugging Face data set, "
        "or a folder of its save_to_disk; builtin for Python's own reference (0.5 MB of English, needs no download); a "
        'mixture is of {"path": SOURCE, "weight": X}',
    )
    group.add_argument(
        "--tokenizer",
        type=tokenizer_name,
        default="auto",
        metavar="NAME",
        help="bytes; bpe:SIZE, trained on the data; a folder or hub name; auto: the model's own, else bytes",
    )
    group.add_argument(
        "--data-cache",
        metavar="DIR",
        help="where the tokens of --data are kept and found by other runs (default: $DATA_CACHE, else data/ in the "
        "run's folder)",
    )


def text(group: argparse._ArgumentGroup) -> None:
    """Add where the text comes from, how it becomes tokens and how it is evaluated."""
    tokens(group)
    group.add_argument(
        "--data-wait",
        type=number,
        default=60.0,
        metavar="MINUTES",
        help="how long the ranks wait at most while the first of each host tokenizes what is not in the cache",
    )
    group.add_argument(
        "--seq-length", type=positive, default=256, metavar="N", help="tokens a sample predicts"
    )
    group.add_argument(
        "--eval-every",
        type=count,
        default=0,
        metavar="N",
        help="evaluate every N steps and at the end on the held-out text (documents chosen at random from all sources, "
        "a twentieth of the tokens, at most 4 Mi); 0: never",
    )
    group.add_argument(
        "--eval-samples",
        type=positive,
        default=128,
        metavar="N",
        help="samples of the held-out text that are evaluated, by all ranks together: the same ones each time",
    )


def examples(group: argparse._ArgumentGroup, keys: str) -> None:
    """Add where examples come from and how they become tokens; `keys` are those of one example."""
    group.add_argument(
        "--data",
        nargs="+",
        default=["builtin"],
        metavar="SOURCE",
        help=f".jsonl (or .jsonl.gz), .json and .parquet files, folders or globs with {keys}; hf:NAME[@SUBSET][:SPLIT] "
        "for a Hugging Face data set; builtin for sentences of Python's own reference",
    )
    group.add_argument(
        "--tokenizer",
        type=tokenizer_name,
        default="auto",
        metavar="NAME",
        help="bpe:SIZE, trained on the data; a folder or hub name; auto: the model's own, else as large a bpe as fits",
    )
    group.add_argument(
        "--seq-length", type=positive, default=512, metavar="N", help="tokens of an example at most"
    )
    group.add_argument(
        "--eval-every",
        type=count,
        default=0,
        metavar="N",
        help="evaluate every N steps on a twentieth of the examples that is held out; 0: never",
    )


def loading(group: argparse._ArgumentGroup) -> None:
    """Add how batches of examples are made."""
    group.add_argument(
        "--loader-workers",
        type=count,
        metavar="N",
        help="processes of each rank that make batches ahead of the step; batches and their order do not depend on it "
        "(default: 1 on an accelerator, 0 on a CPU)",
    )


def sampling(group: argparse._ArgumentGroup) -> None:
    """Add how answers are sampled while a policy learns."""
    group.add_argument(
        "--max-new-tokens", type=positive, default=256, metavar="N", help="tokens of an answer at most"
    )
    group.add_argument("--temperature", type=rate, default=1.0, help="of sampling")
    group.add_argument(
        "--gather-for-generation",
        action=SWITCH,
        default=True,
        help="under ZeRO-3 gather all weights once for an answer, not each layer for each token; a rank then holds the "
        "whole model meanwhile",
    )


def policy_optimization(group: argparse._ArgumentGroup) -> None:
    """Add the numbers of policy optimization with a critic."""

    def add(name: str, kind: Any, default: float | None, **more: Any) -> None:
        group.add_argument(f"--{name}", type=kind, default=default, **{"metavar": "X", **more})

    add("critic-lr", rate, None, metavar="RATE", help="highest learning rate of the critic (default: --lr)")
    add("beta", number, 0.1, help="weight of the distance to the reference (KL)")
    add("target-kl", rate, None, metavar="NATS", help="adapt --beta so that an answer's KL comes near this")
    add("clip", rate, 0.2, help="how far a step may move a token's probability ratio from 1")
    add("score-clip", rate, 5.0, help="largest score of an answer that is learned from; logged is the whole")
    add("missing-eos-penalty", number, 0.0, help="taken from the score of an answer without an end token")
    add("gamma", share, 1.0, help="discount of later rewards")
    add("gae-lambda", share, 0.95, help="lambda of generalized advantage estimation")
    add("epochs", positive, 1, metavar="N", help="updates from the same answers")
    add(
        "ema",
        fraction,
        0.0,
        metavar="DECAY",
        help="export a moving average of the policy's weights; 0: the last",
    )
    add("ptx-weight", number, 27.8, help="weight of the loss on --ptx-data (InstructGPT's gamma)")
    group.add_argument(
        "--ptx-data",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="plain text, as pretrain's --data, whose loss is learned beside the reward, so that the policy does not "
        "forget it",
    )
    group.add_argument(
        "--offload-frozen",
        action=SWITCH,
        default=False,
        help="keep the parameters of reference and reward model in host memory",
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

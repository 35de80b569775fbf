"""Options of data: where text and examples come from, and how they become tokens and batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.options import count, number, positive, tokenizer_name

if TYPE_CHECKING:
    import argparse


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
        "for a Hugging Face data set, or a folder of its save_to_disk; builtin for sentences of Python's own reference",
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

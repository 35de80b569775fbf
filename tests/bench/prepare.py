"""Tokens a second of `prepare` against `datasets.map(num_proc=…)`: the same text, tokenizer and number of processes.

    python -m tests.bench.prepare [--megabytes 24] [--vocabulary 32000]

Owns the comparison. The text is the source code and the documentation of the installed packages, a document a file;
the tokenizer is trained on a part of it, and both sides end with tokens on disk. The two are measured in turn, because
what else the machine does changes even processor seconds; the ratio is the median of these pairs. Ends with 1 when
`prepare` takes more processor seconds with one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 3


class Took(NamedTuple):
    """What one round took."""

    processor: float  # seconds, of all processes together
    wall: float
    tokens: int


def main() -> None:
    command = argparse.ArgumentParser(
        prog="python -m tests.bench.prepare", description=__doc__.splitlines()[0]
    )
    command.add_argument("--megabytes", type=int, default=24)
    command.add_argument("--vocabulary", type=int, default=32_000)
    args = command.parse_args()
    sys.path.insert(0, str(ranks.DOCKER))
    os.environ.update(
        HF_DATASETS_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false"
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = write_text(folder / "text.jsonl", args.megabytes * 1_000_000)
        tokenizer = train(folder, args.vocabulary)
        print(
            f"{size / 1e6:.1f} MB of text, a vocabulary of {args.vocabulary:,}; each the shortest of {ROUNDS} rounds"
        )
        print(
            f"{'program':14} {'processes':>9} {'tokens a processor s':>20} {'tokens/s':>10} {'MB/s':>7} times map"
        )
        slower = False
        for processes in sorted({1, len(os.sched_getaffinity(0))}):
            pairs = [
                (took(by_map, folder, tokenizer, processes), took(by_prepare, folder, tokenizer, processes))
                for _ in range(ROUNDS)
            ]
            row("datasets.map", processes, size, min(rival for rival, _ in pairs))
            row("prepare", processes, size, min(ours for _, ours in pairs))
            processor = statistics.median(rival.processor / ours.processor for rival, ours in pairs)
            wall = statistics.median(rival.wall / ours.wall for rival, ours in pairs)
            print(f"{'':64} {processor:.2f} by processor seconds, {wall:.2f} by wall seconds", flush=True)
            slower |= processes == 1 and processor < 1
        row("prepare, bytes", 1, size, took(by_prepare, folder, "bytes", 1))
    raise SystemExit(1 if slower else 0)


def row(name: str, processes: int, size: int, round_: Took) -> None:
    """Print what a round took."""
    print(
        f"{name:14} {processes:9} {round_.tokens / round_.processor:20,.0f} {round_.tokens / round_.wall:10,.0f} "
        f"{size / round_.wall / 1e6:7.2f}",
        flush=True,
    )


def took(work: Callable[[Path, str, int], int], folder: Path, tokenizer: str, processes: int) -> Took:
    """What one round of `work`, which returns tokens, took."""
    processor, wall = sum(os.times()[:4]), time.perf_counter()
    tokens = work(folder, tokenizer, processes)
    return Took(sum(os.times()[:4]) - processor, time.perf_counter() - wall, tokens)


def write_text(path: Path, most: int) -> int:
    """Write documents of at most `most` bytes in all; returns the bytes of their text."""
    size = 0
    with path.open("w") as file:
        for source in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
            text = source.read_text(errors="replace")
            if text and size < most:
                file.write(json.dumps({"text": text}) + "\n")
                size += len(text.encode())
    return size


def train(folder: Path, vocabulary: int) -> str:
    """Train a tokenizer on a part of the text; returns its folder."""
    from workloads import tokenizer

    with (folder / "text.jsonl").open() as file:
        texts = [json.loads(line)["text"] for line in file][::3]
    tokenizer.trained(f"bpe:{vocabulary}", folder / "tokenizer", lambda: iter(texts))
    return str(folder / "tokenizer")


def by_prepare(folder: Path, name: str, processes: int) -> int:
    """Tokens on disk by this project."""
    from workloads import cache, corpus, tokenizer

    by = tokenizer.existing(name)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    made = cache.make([str(folder / "text.jsonl")], by, folder / "cache", cache.Making(processes))
    return corpus.read(made).tokens


def by_map(folder: Path, name: str, processes: int) -> int:
    """Tokens on disk by datasets.map in batches, with an end token after each document."""
    import datasets
    from transformers import AutoTokenizer

    by = AutoTokenizer.from_pretrained(name)
    datasets.disable_caching()
    rows = datasets.load_dataset("json", data_files=str(folder / "text.jsonl"), split="train")

    def tokens(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = by(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"ids": [[*row, by.eos_token_id] for row in ids]}

    shutil.rmtree(folder / "mapped", ignore_errors=True)
    mapped = rows.map(tokens, batched=True, batch_size=256, remove_columns=["text"], num_proc=processes)
    mapped.save_to_disk(str(folder / "mapped"))
    return sum(mapped.data.column("ids").combine_chunks().value_lengths().to_pylist())


if __name__ == "__main__":
    main()

"""Tokens a second of `prepare` against `datasets.map(num_proc=…)`: the same text, tokenizer and number of processes.

    python -m tests.bench.prepare [--megabytes 24] [--vocabulary 32000]

Owns the comparison. The text is the source code and the documentation of the installed packages, a document a file;
the tokenizer is trained on a part of it. Both sides start new processes and end with tokens on disk. Ends with 1 when
`prepare` is slower with one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 3  # of which the fastest counts: other programs can only slow one down


def main() -> None:
    command = argparse.ArgumentParser(
        prog="python -m tests.bench.prepare", description=__doc__.splitlines()[0]
    )
    command.add_argument("--megabytes", type=int, default=24)
    command.add_argument("--vocabulary", type=int, default=32_000)
    args = command.parse_args()
    sys.path.insert(0, str(ranks.DOCKER))
    os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        size = write_text(folder / "text.jsonl", args.megabytes * 1_000_000)
        tokenizer = train(folder, args.vocabulary)
        print(f"{size / 1e6:.1f} MB of text, a vocabulary of {args.vocabulary:,}; the fastest of {ROUNDS}")
        print(f"{'program':14} {'processes':>9} {'MB/s':>7} {'tokens/s':>11} {'times map':>9} {'scaling':>8}")
        ratios = {}
        first: dict[str, float] = {}
        for processes in sorted({1, len(os.sched_getaffinity(0))}):
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            figures = {
                "datasets.map": fastest(lambda n=processes: by_map(folder, tokenizer, n)),  # type: ignore[misc]
                "prepare": fastest(lambda n=processes: by_prepare(folder, tokenizer, n)),  # type: ignore[misc]
            }
            for name, (seconds, tokens) in figures.items():
                rate = tokens / seconds
                first.setdefault(name, rate)
                ratios[processes] = rate * figures["datasets.map"][0] / figures["datasets.map"][1]
                print(
                    f"{name:14} {processes:9} {size / seconds / 1e6:7.2f} {rate:11,.0f} {ratios[processes]:9.2f} "
                    f"{rate / first[name]:8.2f}",
                    flush=True,
                )
        plain = fastest(lambda: by_prepare(folder, "bytes", 1))
        print(f"{'prepare, bytes':14} {1:9} {size / plain[0] / 1e6:7.2f} {plain[1] / plain[0]:11,.0f}")
    raise SystemExit(0 if ratios[1] >= 1 else 1)


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


def fastest(work: Callable[[], tuple[float, int]]) -> tuple[float, int]:
    """The shortest time of several rounds, seconds, and the tokens."""
    return min(work() for _ in range(ROUNDS))


def by_prepare(folder: Path, name: str, processes: int) -> tuple[float, int]:
    """Seconds and tokens of this project."""
    from workloads import cache, corpus, tokenizer

    by = tokenizer.existing(name)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    began = time.perf_counter()
    made = cache.make([str(folder / "text.jsonl")], by, folder / "cache", cache.Making(processes))
    return time.perf_counter() - began, corpus.read(made).tokens


def by_map(folder: Path, name: str, processes: int) -> tuple[float, int]:
    """Seconds and tokens of datasets.map in batches, with an end token after each document, saved to disk."""
    import datasets
    from transformers import AutoTokenizer

    by = AutoTokenizer.from_pretrained(name)
    datasets.disable_caching()
    rows = datasets.load_dataset("json", data_files=str(folder / "text.jsonl"), split="train")

    def tokens(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        ids = by(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"ids": [[*row, by.eos_token_id] for row in ids]}

    shutil.rmtree(folder / "mapped", ignore_errors=True)
    began = time.perf_counter()
    mapped = rows.map(tokens, batched=True, batch_size=256, remove_columns=["text"], num_proc=processes)
    mapped.save_to_disk(str(folder / "mapped"))
    seconds = time.perf_counter() - began
    return seconds, sum(len(row) for row in mapped["ids"])


if __name__ == "__main__":
    main()

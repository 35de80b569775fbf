"""Tokenize text before GPUs are allocated: `python -m workloads.prepare`, once on each host.

By hand, on all cores of this machine:

    PYTHONPATH=docker python -m workloads.prepare --run-dir runs/tokens --model byte-gpt --data TEXT --data-cache tokens

Any number of hosts that see the same cache folder share the shards among them, and so do jobs that start at once. Start
it again after it was stopped or killed and it makes the shards that are missing. Training with the same --data,
--tokenizer and --data-cache then begins at once. Writes metrics.jsonl and summary.json to the run's folder.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from ending import NO_CHECKPOINT

from workloads import (
    architectures,
    cache,
    cache_link,
    cores,
    data_options,
    metrics,
    options,
    session,
    sources,
    tokenizer,
)
from workloads.traits import Traits

TRAITS = Traits(needs_accelerator=False)


def parser() -> argparse.ArgumentParser:
    """The command line; importing this module and calling this needs the standard library only."""
    command = argparse.ArgumentParser(
        prog="python -m workloads.prepare",
        description="Tokenize text on CPUs, for pretrain to find it in the cache.",
        allow_abbrev=False,
    )
    options.launcher(command, only=("run-dir", "model"))
    group = command.add_argument_group("data")
    data_options.tokens(group)
    group.add_argument(
        "--processes",
        type=options.positive,
        metavar="N",
        help="processes that tokenize on each host (default: as many as it has cores for this rank)",
    )
    return command


def refusal(words: list[str], hosts: int, slots: int) -> str | None:
    """Why this command line cannot run, as far as it can be told before: None if it can."""
    del hosts, slots
    args = parser().parse_args(words)
    return sources.mistake(args.data) or tokenizer.mistake(args.tokenizer, args.model) or None


def prepare(args: argparse.Namespace) -> int:
    """Make the tokens together with other hosts; returns the exit code when they are complete."""
    session.be_quiet()
    began, run_dir = time.monotonic(), Path(args.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    first = os.environ.get("RANK", "0") == "0"
    log = metrics.Log(run_dir, first)
    log.event("start", 0, attempt=metrics.attempts(run_dir) + 1)
    place = cache.place(args.data_cache, run_dir)
    if first:
        cache_link.lead(run_dir, place)
    try:
        vocabulary = architectures.vocabulary(architectures.config(args.model))
        by = tokenizer.choose(
            args.tokenizer,
            args.model,
            vocabulary,
            lambda name: cache.trained(name, args.data, place, run_dir / "tokenizer"),
        )
        making = cache.Making(args.processes or cores.usable(), log if first else None)
        folder = cache.make(args.data, by, place, making)
    except (OSError, session.Stop) as error:
        stop = error if isinstance(error, session.Stop) else session.Stop(str(error), NO_CHECKPOINT)
        log.event("end", 0, status="failed", reason=stop.message)
        raise stop from error
    cache.mark_used(folder / cache.COMPLETE)
    log.event("end", 0, status="done")
    if first:
        facts = json.loads((folder / cache.COMPLETE).read_text(encoding="utf-8"))
        shown = {**facts, "folder": str(folder), "shards": len(facts["shards"])}
        metrics.write_atomically(
            run_dir / "summary.json", {**shown, "wall_seconds": time.monotonic() - began}
        )
    log.close()
    return os.EX_OK


def main() -> None:
    """Run this rank; exits with a code of session.py."""
    session.run_apart(parser(), prepare)


if __name__ == "__main__":
    main()

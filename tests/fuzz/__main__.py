"""`python -m tests.fuzz --minutes 10 [--seed N]`: search, and say what was tried and found.

Owns the search's processes, its budget and its report. Exit code 1 when something was found. One input alone, with all
that it says: `--seed S --input N`.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import os
import pkgutil
import secrets
import select
import sys
import time
from pathlib import Path

import launcher
from launcher.cli import main as cli_main
from tests.fuzz import commands, properties, sandbox, shrinking, verdicts

WARM = (
    ["check", "jobs/llama-7b.yaml", "jobs/chat.yaml"],
    ["plan", "jobs/quickstart.yaml"],
    ["doctor", "--json"],
)


def main() -> int:
    """Search until the budget is spent."""
    args = _options()
    _import_everything()
    if args.input is not None:
        return _one(args.seed, args.input)
    print(f"fuzz: seed {args.seed}, {args.minutes:g} minutes, {args.jobs} processes", flush=True)
    share = args.minutes * 60 * args.properties
    failed = properties.search(args.seed, share, args.jobs) if share else []
    tried, found = _search(args.seed, args.minutes * 60 - share, args.jobs, args.inputs)
    count = sum(tried.values()) // 2  # each by its verb and by its exit code
    print(f"\nfuzz: seed {args.seed}: {count:,} inputs tried, {len(found)} distinct findings")
    print("  " + ", ".join(f"{what} {times:,}" for what, times in tried.most_common(40)))
    for number, (key, at) in enumerate(sorted(found.items()), 1):
        _tell(args, number, key, at)
    for line in failed:
        print(f"a property does not hold: {line}")
    return 1 if found or failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--properties", type=float, default=0.0, help="share of the time for the property tests"
    )
    parser.add_argument("--inputs", type=int, default=10**9, help="stop after so many")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--input", type=int, help="run this one alone")
    parser.add_argument("--keep", type=Path, help="write each finding's files below this folder")
    return parser.parse_args()


def _import_everything() -> None:
    """Once, before anything is forked: imports and caches are most of what a command costs."""
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    for module in pkgutil.walk_packages(launcher.__path__, "launcher."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("rich.progress")
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        sys.stdout, kept = nothing, sys.stdout
        sys.stderr, talk = nothing, sys.stderr
        for words in WARM:
            cli_main.main(words)
        sys.stdout, sys.stderr = kept, talk


def _search(
    seed: int, seconds: float, jobs: int, most: int
) -> tuple[collections.Counter[str], dict[str, int]]:
    """How many inputs were tried, by verb and by exit code, and key → the first input of each finding."""
    readers = [_worker(seed, time.monotonic() + seconds, range(at, most, jobs)) for at in range(jobs)]
    tried: collections.Counter[str] = collections.Counter()
    found: dict[str, int] = {}
    rest = dict.fromkeys(readers, b"")
    while rest:
        for reader in select.select(list(rest), [], [])[0]:
            data = os.read(reader, 65536)
            *lines, rest[reader] = (rest[reader] + data).split(b"\n")
            for line in lines:
                number, verb, code, key = line.decode().split("\t")
                tried[verb] += 1
                tried[f"exit {code}"] += 1
                if key and key not in found:
                    found[key] = int(number)
                    print(f"  input {number}: {key}", flush=True)
            if not data:
                os.close(reader)
                del rest[reader]
    return tried, found


def _worker(seed: int, end: float, numbers: range) -> int:
    """A process that tries `numbers` until the clock says `end`; what it finds is read from the descriptor."""
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        return reader
    try:
        for number in numbers:
            if time.monotonic() > end:
                break
            given = commands.make(seed, number)
            outcome = sandbox.run(given)
            found = verdicts.judge(given, outcome)
            verb = given.words[0][:20] if given.words and given.words[0].isidentifier() else "other"
            key = " ".join(found.key.split())[:300] if found else ""
            os.write(writer, f"{number}\t{verb}\t{outcome.code}\t{key}\n".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(0)


def _tell(args: argparse.Namespace, number: int, key: str, at: int) -> None:
    given = commands.make(args.seed, at)
    found = verdicts.judge(given, sandbox.run(given))
    if not found:
        print(f"\n{number}. {key}\n   input {at}: not seen again")
        return
    given = shrinking.smallest(given, found.key)
    found = verdicts.judge(given, sandbox.run(given)) or found
    print(f"\n{number}. {key}\n   python -m tests.fuzz --seed {args.seed} --input {at}\n")
    for line in f"{shrinking.text(given)}\n{found.detail}".splitlines():
        print(f"    {line if len(line) < 1000 else line[:1000] + '…'}")
    if args.keep:
        shrinking.keep(given, args.keep / f"{number:03}")
    sys.stdout.flush()


def _one(seed: int, number: int) -> int:
    given = commands.make(seed, number)
    outcome = sandbox.run(given)
    found = verdicts.judge(given, outcome)
    print(shrinking.text(given))
    print(
        f"exit {outcome.code}, {outcome.seconds:.2f} s, {outcome.memory / 2**20:.0f} MiB, left {outcome.left}"
    )
    print(outcome.out[-2000:], outcome.err[-4000:], *outcome.trespasses, sep="\n")
    print(f"finding: {found.key}" if found else "nothing is wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

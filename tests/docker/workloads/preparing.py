"""A process that prepares tokens in forks of itself, so that many are cheap: killed, two at once, or measured.

    python -m tests.docker.workloads.preparing kill|twice|memory|host FOLDER

Owns what is done to them; the tests say what should come of it. Prints one JSON object. A fork is killed when it has
opened, renamed or removed a file of the cache so many times, which is the same moment every time.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MOMENTS = 20
SHARD = 10_000  # bytes


def words(folder: Path) -> list[str]:
    """Two sources: a file of several shards that is one document, and lines."""
    lines = [json.dumps({"text": f"document {n} " * (n % 50 + 1)}) for n in range(400)]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    (folder / "book.txt").write_text("".join(f"line {number:06}\n" for number in range(6_000)))
    return [str(folder / "book.txt"), str(folder / "lines.jsonl")]


def contents(cache: Path) -> dict[str, str]:
    """Hashes of all files of a cache; of corpus.json what does not depend on time."""
    found = {}
    for path in sorted(file for file in cache.rglob("*") if file.is_file()):
        raw = path.read_bytes()
        if path.name == "corpus.json":
            facts = json.loads(raw)
            raw = repr({key: facts[key] for key in facts if key not in ("seconds", "created")}).encode()
        found[str(path.relative_to(cache))] = hashlib.sha256(raw).hexdigest()
    return found


def fork(work: Callable[[], object]) -> int:
    """Start a fork that ends after work; returns its number."""
    if number := os.fork():
        return number
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def ended(number: int) -> int:
    """The exit code of a fork, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def counted(folder: Path, last: int = 0) -> list[int]:
    """What this process does to files below a folder from now on, counted; it is killed at the `last` time."""
    seen = [0]

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and str(folder) in str(given[0]):
            seen[0] += 1
            if seen[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return seen


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    from workloads import cache, claims, cutting, tokenizer

    cutting.SMALLEST = SHARD
    if mode == "kill":  # one may die before its name is in its claim; elsewhere the owner may only be slow
        claims.VOID = 0.2
    if mode == "host":  # the others of its kind see the same files, with the same times
        given, by = [str(folder / "book.txt"), str(folder / "lines.jsonl")], tokenizer.existing("bytes")
        written = together(folder, os.uname().nodename)
        cache.make(given, by, folder / "cache", cache.Making(1))
        print(json.dumps(written))
        return
    given = words(folder)
    texts = [Path(path).read_text()[:20_000] for path in given]
    tokenizer.trained("bpe:300", folder / "tokenizer", lambda: iter(texts))
    by = tokenizer.existing(str(folder / "tokenizer"))
    print(json.dumps(MODES[mode](folder, lambda within: cache.make(given, by, within, cache.Making(1)))))


def kill(folder: Path, make: Callable[[Path], object]) -> dict[str, Any]:
    """Kill at many moments, then go on: what was there, and what came of it."""

    def watched() -> None:
        seen = counted(folder / "whole")
        make(folder / "whole")
        (folder / "report").write_text(str(seen[0]))

    codes = [ended(fork(watched))]
    moments = int((folder / "report").read_text())
    whole = contents(folder / "whole")
    tries = []
    for moment in sorted(random.Random(0).sample(range(1, moments + 1), MOMENTS)):
        within = folder / f"killed {moment}"

        def killed(within: Path = within, moment: int = moment) -> None:
            counted(within, moment)
            make(within)

        code = ended(fork(killed))
        half = contents(within) if within.exists() else {}
        again = ended(fork(lambda within=within: make(within)))  # type: ignore[misc]
        tries.append([code, sum(name.endswith(".idx") for name in half), again, contents(within) == whole])
    return {"codes": codes, "shards": sum(name.endswith(".idx") for name in whole), "tries": tries}


def together(folder: Path, name: str) -> list[str]:
    """The names of the shards that this process writes from now on; the first one ends when two processes write."""
    from workloads import shard_writer

    write, written = shard_writer.write, []

    def noted(within: Path, shard: Any, *more: Any) -> None:
        write(within, shard, *more)
        written.append(shard.name)
        (folder / f"{name} began").touch()
        while len(list(folder.glob("* began"))) < 2:
            more[-1](0)
            time.sleep(0.01)

    shard_writer.write = noted  # type: ignore[assignment]
    return written


def twice(folder: Path, make: Callable[[Path], object]) -> dict[str, Any]:
    """Two at once in one cache: which shards each has written."""

    def start(name: str) -> Callable[[], None]:
        def work() -> None:
            written = together(folder, name)
            make(folder / "cache")
            (folder / name).write_text(json.dumps(written))

        return work

    codes = [ended(number) for number in [fork(start("one")), fork(start("two"))]]
    make(folder / "whole")
    return {
        "codes": codes,
        "written": [json.loads((folder / name).read_text()) for name in ("one", "two")],
        "same": contents(folder / "cache") == contents(folder / "whole"),
        "shards": sum(name.endswith(".idx") for name in contents(folder / "whole")),
    }


def memory(folder: Path, _: Callable[[Path], object]) -> dict[str, Any]:
    """The most memory of a process that prepares n and 4 n bytes of text, beyond what it began with."""
    from workloads import cache, tokenizer

    by = tokenizer.existing(str(folder / "tokenizer"))
    grown = []
    for times in (1, 4):
        source = folder / f"{times}.jsonl"
        with source.open("w") as file:
            for number in range(times * 20_000):
                file.write(
                    json.dumps({"text": f"{number} some words of a document {number % 97} " * 3}) + "\n"
                )

        def measured(times: int = times, source: Path = source) -> None:
            before = resident("VmRSS")
            cache.make([str(source)], by, folder / f"cache {times}", cache.Making(1))
            (folder / f"grown {times}").write_text(str(resident("VmHWM") - before))

        assert ended(fork(measured)) == 0
        grown.append(int((folder / f"grown {times}").read_text()))
    return {"grown": grown, "bytes": [(folder / f"{times}.jsonl").stat().st_size for times in (1, 4)]}


def resident(what: str) -> int:
    """Bytes of this process' memory now (VmRSS) or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{what}:")[1].split()[0])


MODES: dict[str, Callable[[Path, Callable[[Path], object]], dict[str, Any]]] = {
    "kill": kill,
    "twice": twice,
    "memory": memory,
}

if __name__ == "__main__":
    main()

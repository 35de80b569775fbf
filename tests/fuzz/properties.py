"""The property tests of the suite, file by file, each with a fresh seed and ten times the examples of `make test`.

Owns the order and the budget; which examples the gate tries is tests/conftest.py's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import TYPE_CHECKING

from launcher import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


def search(seed: int, seconds: float, jobs: int) -> list[str]:
    """Try files until `seconds` are over. Returns the commands that failed, each a line."""
    end, found = time.monotonic() + seconds, list[str]()

    def attempt(task: tuple[str, int]) -> tuple[list[str], subprocess.CompletedProcess[str] | None]:
        file, chosen = task
        words = [file, "-q", "-m", "hypothesis and not deepspeed", "--hypothesis-profile=fuzz", "-n0"]
        words += [f"--hypothesis-seed={chosen}", "--no-header", "-p", "no:cacheprovider"]
        left = end - time.monotonic()
        if left <= 0:
            return words, None
        try:
            command = [sys.executable, "-m", "pytest", *words]
            return words, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            return words, None

    with ThreadPoolExecutor(jobs) as pool:
        for round_ in _rounds(seed):
            for words, done in pool.map(attempt, round_):
                if done is None:
                    print(f"properties: {words[0]}: not tried to its end, the budget is spent", flush=True)
                elif done.returncode in {0, 5}:  # 5: all of its tests are of another kind
                    print(f"properties: {words[0]}: {done.stdout.strip().rpartition(chr(10))[2]}", flush=True)
                else:
                    print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
                    found.append(f"python -m pytest {' '.join(words)}")
            if time.monotonic() > end:
                return found
    return found


def _rounds(seed: int) -> Iterator[list[tuple[str, int]]]:
    """All files that hold property tests, in another order and with other seeds each time."""
    paths = sorted(
        path for path in (ROOT / "tests").rglob("test_*.py") if "@given(" in path.read_text("utf-8")
    )
    number = 0
    while True:
        random = Random(f"{seed}:{number}")
        files = [str(path.relative_to(ROOT)) for path in paths]
        random.shuffle(files)
        yield [(file, random.randrange(2**32)) for file in files]
        number += 1

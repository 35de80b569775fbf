"""The property tests of the whole suite, in rounds, each with a fresh seed and ten times the examples of `make test`.

Owns the rounds; which examples the gate tries is tests/conftest.py's.
"""

from __future__ import annotations

import subprocess
import sys
import time
from random import Random

from launcher import ROOT


def search(seed: int, seconds: float, jobs: int) -> list[str]:
    """Rounds until `seconds` are over. Returns a line for each round in which a test failed."""
    end, found = time.monotonic() + seconds, list[str]()
    for number in range(1, 10_000):
        chosen = Random(f"{seed}:{number}").randrange(2**32)
        words = ["-m", "pytest", "-q", "-m", "hypothesis and not deepspeed", "--hypothesis-profile=fuzz"]
        words += [f"--hypothesis-seed={chosen}", "-n", str(jobs), "--no-header", "-p", "no:cacheprovider"]
        try:
            left = end - time.monotonic()
            done = subprocess.run(
                [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=left
            )
        except (subprocess.TimeoutExpired, ValueError):
            print(f"properties: round {number}, seed {chosen}: ended by the budget", flush=True)
            return found
        last = done.stdout.strip().splitlines()[-1:]
        print(f"properties: round {number}, seed {chosen}: {' '.join(last)}", flush=True)
        if done.returncode:
            print(done.stdout[-8000:], done.stderr[-2000:], flush=True)
            found.append(f"round {number}: pytest {' '.join(words[2:6])} --hypothesis-seed={chosen}")
    return found

"""What a rank does to its own process at start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docker.workloads.ranks import DOCKER

pytestmark = pytest.mark.heavy  # each reads torch in an interpreter of its own

STEPS = """
import resource, sys
import torch
from workloads import session

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(4 << 20) for _ in range(8)]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    session._keep_freed_memory()
step()
print(min(step() for _ in range(3)))
"""


def pages(word: str, **env: str) -> int:
    """Page faults of a step that fills eight tensors of 16 MiB and frees them, once it has done so before."""
    command = [sys.executable, "-c", STEPS, word]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(DOCKER), **env}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_step_reuses_the_memory_of_the_one_before() -> None:
    # what it saves; without limits the C library keeps more or less of it, by what lies above it
    anew = pages("leave", MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="131072")
    assert anew > 10_000
    # a small allocation that comes to lie between two tensors costs one of the eight
    assert pages("keep") < anew / 4


def test_limits_of_the_environment_hold() -> None:
    assert pages("keep", MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="131072") > 10_000

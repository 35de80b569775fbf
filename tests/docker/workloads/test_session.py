"""What a rank does to its own process at start-up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docker.workloads.ranks import DOCKER

# A tensor's memory is what posix_memalign gives (c10/core/impl/alloc_cpu.cpp), and torch takes seconds to read.
STEPS = """
import ctypes, resource, sys
from workloads import session

C, SIZE = ctypes.CDLL(None), 16 << 20

def tensor():
    place = ctypes.c_void_p()
    assert C.posix_memalign(ctypes.byref(place), ctypes.c_size_t(64), ctypes.c_size_t(SIZE)) == 0
    ctypes.memset(place, 1, SIZE)
    return place

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for place in [tensor() for _ in range(8)]:
        C.free(place)
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


@pytest.mark.heavy
def test_a_step_reuses_the_memory_of_the_one_before() -> None:
    # what it saves; without limits the C library keeps more or less of it, by what lies above it
    anew = pages("leave", MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="131072")
    assert anew > 10_000
    # a small allocation that comes to lie between two tensors costs one of the eight
    assert pages("keep") < anew / 4


@pytest.mark.heavy
def test_limits_of_the_environment_hold() -> None:
    assert pages("keep", MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="131072") > 10_000

"""On a GPU, the peak of training is the planner's forecast; without one, the program that measures it still runs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from launcher import ROOT
from tests.docker.workloads.memory_gpu import CASES, MODELS, Case, table

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("deepspeed", reason="the train extra is not installed")
pytestmark = [pytest.mark.deepspeed]


def run(case: Case) -> int:
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "tests.docker.workloads.memory_gpu", json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("model", MODELS)
def test_peak(model: str) -> None:
    capacity = torch.cuda.get_device_properties(0).total_memory
    fitting = [c for c in CASES if c.model == model and c.forecast.slot.total <= capacity]
    errors = {str(case): case.peak / run(case) for case in fitting}
    assert errors
    assert not {case: error for case, error in errors.items() if not 0.97 <= error <= 1.10}


@pytest.mark.skipif(torch.cuda.is_available(), reason="test_peak runs it")
def test_it_measures() -> None:
    """On the CPU max_memory_allocated is what the process has resident, so only the way there is tested."""
    assert run(Case("byte-gpt", 2, 1, True, sequence=64)) > 10**7


def test_the_table_says_what_does_not_fit() -> None:
    (*_, last) = table([Case("llama-3b", 1, 16, False)], capacity=10**9).splitlines()
    assert last.startswith("| llama-3b | 1 | 16 | no | ")
    assert last.endswith(" | does not fit |  |")

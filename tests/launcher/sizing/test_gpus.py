"""The table of GPUs: every figure has a source, and none is far from what the name of its card says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from launcher import ROOT
from launcher.sizing import gpus

FILE = ROOT / "launcher" / "sizing" / "gpus.json"


@pytest.mark.parametrize("name", gpus.names())
def test_figures(name: str) -> None:
    gpu, row = gpus.load(name), json.loads(FILE.read_text(encoding="utf-8"))["gpus"][name]
    size = int(name.rpartition("-")[2].removesuffix("gb"))
    # torch shows the usable part: up to 9% less than the name says (error correction), or 8% more (GiB).
    assert 0.91 * size * 2**30 / 1.0737 < gpu.memory < 1.08 * size * 10**9
    assert gpu.memory == int(row["memory_gib"] * 2**30)
    assert gpu.host <= gpu.link
    assert gpu.capability >= (7, 0)
    assert row["source"].startswith("https://")


def test_memory_is_what_cuda_reports_and_not_the_name_of_the_card() -> None:
    reported = {"h200-141gb": 139.80, "b200-180gb": 178.35, "gb200-186gb": 184.31, "v100-16gb": 15.77}
    for name, gib in reported.items():
        assert gpus.load(name).memory / 2**30 == pytest.approx(gib)


def test_the_table_is_read_when_it_is_asked_for() -> None:
    code = "from launcher.sizing import gpus; print(gpus._table.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"

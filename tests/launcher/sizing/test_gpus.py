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


@pytest.mark.parametrize(
    ("model", "mib", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-80gb"),
        ("NVIDIA H100 PCIe", 81559, "h100-pcie-80gb"),
        ("NVIDIA H20", 97871, "h20-96gb"),
        ("NVIDIA H200", 143771, "h200-141gb"),
        ("NVIDIA H200 NVL", 143771, "h200-nvl-141gb"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-pcie-80gb"),
        ("Tesla T4", 15360, "t4-16gb"),
        ("NVIDIA GeForce RTX 3090", 24576, "rtx3090-24gb"),
        ("NVIDIA GeForce RTX 3090 Ti", 24564, "rtx3090-24gb"),
        ("NVIDIA L4", 23034, "l4-24gb"),
        ("NVIDIA L40S", 46068, "l40s-48gb"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887, "rtxpro6000-96gb"),
        ("NVIDIA GeForce RTX 2080 Ti", 11264, ""),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9984, ""),
    ],
)
def test_the_entry_that_fits_what_nvidia_smi_says(model: str, mib: int, name: str) -> None:
    assert gpus.fitting(model, mib * 2**20) == name


@pytest.mark.parametrize("name", gpus.names())
def test_every_entry_is_found_by_its_own_name(name: str) -> None:
    gpu = gpus.load(name)
    assert gpus.fitting(gpu.name, gpu.memory) == name

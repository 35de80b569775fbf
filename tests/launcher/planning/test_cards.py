"""What nvidia-smi says of this machine: which entry of the table fits, and what does not go with the cluster file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT
from launcher.cli import main
from launcher.doctor import machine
from launcher.planning import cards
from launcher.schedulers import local
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

RTX_3090 = "NVIDIA GeForce RTX 3090, 24576, 8.6"
JOBS = sorted(p for p in (ROOT / "jobs").rglob("*.yaml") if p.parent.name != "clusters")
RTX_2080 = "NVIDIA GeForce RTX 2080 Ti, 11264, 7.5"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts an nvidia-smi on PATH that prints these lines."""

    def install(*lines: str) -> None:
        program = tmp_path / "nvidia-smi"
        text = "".join(f"echo '{line}'\n" for line in lines)
        program.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


def warned(gpu: Any, **cluster: Any) -> list[str]:
    return [str(w) for w in local.warnings(samples.decided({"model": "gpt2"}, gpu=gpu, **cluster))]


def test_a_card_of_the_table(smi: Any) -> None:
    smi(RTX_3090)
    (card,) = cards.here()
    assert card.written == "gpu: rtx3090-24gb"
    assert warned("rtx3090-24gb", slots=1) == []


def test_a_card_that_the_table_lacks_is_described_so_that_it_is_valid(smi: Any) -> None:
    smi(RTX_2080)
    (card,) = cards.here()
    assert card.written == "gpu: {name: geforce-rtx-2080-ti, memory: 10.5GiB, capability: 7.5}"
    samples.cluster(gpu={"name": "geforce-rtx-2080-ti", "memory": "10.5GiB", "capability": 7.5})


@pytest.mark.parametrize(
    "lines", [(), ("No devices were found",), ("a, b, c", "[N/A], [N/A], [N/A]"), ("x, 1",)]
)
def test_what_is_no_card(smi: Any, lines: tuple[str, ...]) -> None:
    smi(*lines)
    assert cards.here() == []
    (warning,) = warned("rtx3090-24gb", slots=1)
    assert (
        "nvidia-smi shows no GPU here, and the ranks want 1 of rtx3090-24gb; use --cluster laptop" in warning
    )


def test_no_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards.here() == []
    assert warned(None) == warned("mi300x-192gb", image="rocm:7") == []


def test_other_cards_than_the_cluster_file_says(smi: Any) -> None:
    smi(RTX_2080)
    few, small = warned("rtx3090-24gb", slots=2)
    assert "this machine has 1 GPU, and the cluster file says 2 slots; use slots: 1" in few
    assert "with 11.0 GiB, and the plan is for rtx3090-24gb; write gpu: {name: geforce-rtx-2080-ti" in small


def test_doctor_says_which_entry_fits(smi: Any) -> None:
    smi(RTX_3090, RTX_3090)
    (gpu,) = [check for check in machine.checks() if check.name == "gpu"]
    assert (
        gpu.detail
        == "2 × NVIDIA GeForce RTX 3090, 24.0 GiB: in a cluster file `gpu: rtx3090-24gb`, `slots: 2`"
    )


@pytest.mark.parametrize("job", JOBS, ids=lambda path: str(path.relative_to(ROOT / "jobs")))
@pytest.mark.heavy
def test_each_job_on_one_24_gb_card_has_a_plan_or_a_reason(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main.main(["plan", str(job), "--cluster", "one-gpu"])
    said = capsys.readouterr()
    assert code in (0, 3)
    if code == 3:  # several hosts, or ranks that share a sample: each reason has its place and what to do
        assert all(re.match(r"\S+\.yaml:\d+:\d+: .+; use .+", line) for line in said.err.splitlines())


@pytest.mark.parametrize(
    ("words", "verdict"),
    [
        ("jobs/gpt2.yaml", "fits"),
        ("jobs/gpt2-xl.yaml --set nodes=1", "DOES NOT FIT: needs 36.1 GB per GPU, 25.4 GB available"),
        ("jobs/gpt2-xl.yaml --set nodes=1 --set deepspeed=auto --set cluster.memory=64GB", "fits"),
        ("jobs/llama-7b.yaml --set nodes=1", "DOES NOT FIT: needs 156.2 GB per host, 32.0 GB available"),
    ],
)
def test_what_a_24_gb_card_trains(words: str, verdict: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", *words.split(), "--cluster", "one-gpu"]) == 0
    assert f"verdict               {verdict}\n" in capsys.readouterr().out


def test_what_one_host_cannot_do_is_not_advised(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["local", "jobs/gpt2-xl.yaml", "--dry-run", "--cluster", "one-gpu", "--set", "nodes=1"]
    assert main.main(words) == 3
    assert capsys.readouterr().err.endswith(
        "no single change makes it fit: use a smaller model, or larger hosts\n"
    )

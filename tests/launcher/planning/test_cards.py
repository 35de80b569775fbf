"""What nvidia-smi says of this machine: which entry of the table fits, and what does not go with the cluster file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher import doctor
from launcher.planning import cards
from launcher.schedulers import local
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

RTX_3090 = "NVIDIA GeForce RTX 3090, 24576, 8.6"
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
    (gpu,) = [c for c in json.loads(doctor.report_json()) if c["name"] == "gpu"]
    assert (
        gpu["detail"]
        == "2 × NVIDIA GeForce RTX 3090, 24.0 GiB: in a cluster file `gpu: rtx3090-24gb`, `slots: 2`"
    )

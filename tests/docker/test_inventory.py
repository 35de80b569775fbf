"""What a host says of itself for the run's lock: its driver and GPUs, as NVIDIA's module tells them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import inventory
import pytest

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = {
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 2023\nGCC version: 12": "535.129.03",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build\nGCC:": "570.86.10",
    "something else": "",
}


@pytest.fixture
def nvidia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "nvidia"
    folder.mkdir()
    monkeypatch.setattr(inventory, "NVIDIA", folder)
    return folder


@pytest.mark.parametrize(("text", "version"), VERSIONS.items())
def test_the_driver(text: str, version: str, nvidia: Path) -> None:
    (nvidia / "version").write_text(text)
    assert inventory.driver() == version


def test_a_host_is_written_down(nvidia: Path, tmp_path: Path) -> None:
    (nvidia / "gpus" / "0000:00:04.0").mkdir(parents=True)
    (nvidia / "gpus" / "0000:00:04.0" / "information").write_text("Model: \t\t NVIDIA H100\nIRQ: 1\n")
    inventory.write(tmp_path, 3, "gpu-3", "77-0")
    fact = json.loads((tmp_path / "hosts" / "3.json").read_text())
    assert (fact["host"], fact["driver"], fact["gpus"]) == ("gpu-3", "", ["NVIDIA H100"])


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("in the way")
    inventory.write(tmp_path, 0, "gpu-0", "0")
    inventory.write(tmp_path / "absent", 0, "gpu-0", "0")

"""What counts as a checkpoint that a run can go on from (docker/saved.py)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import saved

from tests.docker.entries import DOCKER

if TYPE_CHECKING:
    from pathlib import Path

BEGAN = 1000.0


def make(folder: Path, *names: str, at: float = BEGAN + 60) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
        for path in (folder / name, (folder / name).parent):
            os.utime(path, (at, at))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("model/config.json",),
        ("universal/x", ".latest", ".draft/x"),
        ("model/config.json", "step-00000005/mp_rank_00_model_states.pt"),
        ("model/config.json", "step-00000005/damaged.json", "latest"),
        ("model/config.json", "checkpoint-5/trainer_state.json"),
    ],
)
def test_what_is_no_checkpoint(names: tuple[str, ...], tmp_path: Path) -> None:
    assert not saved.since(make(tmp_path / "checkpoints", *names))


@pytest.mark.parametrize(
    "names",
    [
        ("model/config.json", "step-00000005/complete.json"),
        ("model/config.json", "checkpoint-5/complete.json"),
        ("checkpoint-5/trainer_state.json",),  # of a Trainer of one's own
        ("global_step5/x",),
        ("last.pt",),
        ("latest/model.safetensors",),
    ],
)
def test_what_is_one(names: tuple[str, ...], tmp_path: Path) -> None:
    folder = make(tmp_path / "checkpoints", *names)
    assert saved.since(folder)
    assert saved.since(folder, BEGAN)
    assert not saved.since(folder, BEGAN + 61)


def test_one_of_an_earlier_attempt_that_is_found_damaged_is_none(tmp_path: Path) -> None:
    folder = make(tmp_path, "model/x", "step-1/complete.json", at=BEGAN - 60)
    make(folder, "step-2/damaged.json")
    assert saved.since(folder)
    assert not saved.since(folder, BEGAN)


def test_the_names_are_the_workloads() -> None:
    text = (DOCKER / "workloads" / "checkpoint_folder.py").read_text()
    assert 'MARKER = "complete.json"' in text
    assert 'MODEL = "model"' in text
    assert 'FOLDER = "universal"' in (DOCKER / "workloads" / "universal.py").read_text()

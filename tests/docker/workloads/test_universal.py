"""A checkpoint is converted whole or not at all, once, and only where there is room (really: test_pretrain.py)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from workloads import metrics, universal
from workloads.checkpoint_folder import Checkpoint, Identity, Progress
from workloads.session import Stop

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed

OURS = Identity("gpt2 (7 parameters)", "m", "bytes (256 tokens)", "t", 2, 1, "bf16")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    path = tmp_path / "older" / "step-00000003"
    path.mkdir(parents=True)
    (path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(bytes(2**20))
    return Checkpoint(path, Progress(3, 12, 192), OURS)


@pytest.fixture
def log(tmp_path: Path) -> metrics.Log:
    return metrics.Log(tmp_path, writes=False)


def test_one_that_an_earlier_attempt_converted_is_taken(
    checkpoint: Checkpoint, log: metrics.Log, tmp_path: Path
) -> None:
    made = tmp_path / "universal" / checkpoint.tag
    made.mkdir(parents=True)
    carried = {"progress": dataclasses.asdict(checkpoint.progress), "identity": dataclasses.asdict(OURS)}
    torch.save(carried, made / "mp_rank_00_model_states.pt")
    (made.parent / "latest_universal").write_text(checkpoint.tag)
    source = {"path": str(checkpoint.path), "digests": {}}
    (made.parent / "source.json").write_text(json.dumps(source, sort_keys=True))
    found = universal.convert(checkpoint, tmp_path, log)
    assert found == Checkpoint(made, checkpoint.progress, OURS, universal=True)
    with pytest.raises(Stop, match="cannot be converted"):  # of another run's: this one is not taken for it
        universal.convert(dataclasses.replace(checkpoint, digests={"a": "b"}), tmp_path, log)


@pytest.mark.parametrize(
    ("code", "said", "reason", "ends"),
    [
        (-9, "loading", "the conversion was ended by SIGKILL", 74),
        (1, "OSError: [Errno 28] No space left on device", "No space left on device", 74),
        (1, "ValueError: odd", "ValueError: odd", 64),
        (1, "", "it said nothing", 64),
    ],
)
def test_why_it_failed(code: int, said: str, reason: str, ends: int, tmp_path: Path) -> None:
    stop = universal._failed(tmp_path, code, said)
    assert stop.message.endswith(reason)
    assert stop.code == ends


def test_without_room_nothing_is_begun(
    checkpoint: Checkpoint, log: metrics.Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**21 - 1))
    with pytest.raises(Stop, match=r"has no room to convert it: 0.0 GiB are needed") as stop:
        universal.convert(checkpoint, tmp_path, log)
    assert stop.value.code == 74
    assert not list(tmp_path.glob("*universal"))


def test_one_that_cannot_be_converted_leaves_nothing(
    checkpoint: Checkpoint, log: metrics.Log, tmp_path: Path
) -> None:
    with pytest.raises(Stop, match="cannot be converted for another number of ranks: ") as stop:
        universal.convert(checkpoint, tmp_path, log)
    assert stop.value.code == 64
    assert not list(tmp_path.glob("*universal"))
    assert checkpoint.path.exists()

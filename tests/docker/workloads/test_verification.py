"""A checkpoint is damaged where two ranks read other bytes than were written; else a host is at fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from workloads import digests, verification, waiting
from workloads.checkpoint_folder import Checkpoint, Identity, Progress
from workloads.session import Session, Stop

from tests.docker.workloads.conftest import place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deepspeed
OURS = Identity("gpt2 (7 parameters)", "m", "bytes (256 tokens)", "t", 2, 1, "bf16")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    path = tmp_path / "step-00000003"
    path.mkdir()
    for name in ("zero_pp_rank_0_states.pt", "zero_pp_rank_1_states.pt", "module.pt"):
        (path / name).write_bytes(name.encode() * 100)
    known = {file.name: digests.of(file).digest for file in path.iterdir()}
    return Checkpoint(path, Progress(3, 12, 192), OURS, digests=known)


def test_a_sound_one_has_no_damage(alone: Session, checkpoint: Checkpoint) -> None:
    assert verification.damage(alone, checkpoint) == []


def test_what_is_damaged_is_named_with_rank_and_host(alone: Session, checkpoint: Checkpoint) -> None:
    (checkpoint.path / "module.pt").write_bytes(b"x")
    (reason,) = verification.damage(alone, checkpoint)
    assert reason.startswith("module.pt has other bytes than were written (found by rank 0 on ")


def test_one_that_cannot_be_read_is_not_damaged(alone: Session, checkpoint: Checkpoint) -> None:
    (checkpoint.path / "module.pt").unlink()
    with pytest.raises(Stop, match=r"module\.pt cannot be read on .*: No such file") as stop:
        verification.damage(alone, checkpoint)
    assert stop.value.code == 74


def test_a_host_that_alone_reads_other_bytes_is_at_fault(
    alone: Session, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([[("gpu1", []), ("gpu2", ["module.pt"])], [("gpu1", []), ("gpu2", [])]])
    monkeypatch.setattr(waiting, "gathered", lambda *_: next(answers))
    with pytest.raises(
        Stop, match=r"rank 1 on gpu2 reads other bytes of module\.pt than rank 0 on gpu1"
    ) as stop:
        verification.damage(place(0, 2, alone.run_dir), checkpoint)
    assert "start again without gpu2" in stop.value.message


def test_answers_of_all_ranks_come_in_their_order(alone: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    call = next(waiting._calls) + 1
    monkeypatch.setattr(waiting, "_calls", iter([call, call + 1, call, call + 1]))
    monkeypatch.setattr(waiting, "GRACE", 0.0)
    with pytest.raises(Stop, match=r"rank 0 was not ready after 0 minutes \(reading\)"):
        waiting.gathered(place(1, 2, alone.run_dir), lambda: "b", 0.0, "reading")
    assert waiting.gathered(place(0, 2, alone.run_dir), lambda: "a", 1.0, "reading") == ["a", "b"]

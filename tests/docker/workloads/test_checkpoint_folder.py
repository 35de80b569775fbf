"""Only whole checkpoints count, damaged ones are told, and the newest whole one is never deleted."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest
from workloads import checkpoint_folder, digests
from workloads.checkpoint_folder import Checkpoint, Identity, Progress

if TYPE_CHECKING:
    from pathlib import Path

OURS = Identity("gpt2 (7 parameters)", "m", "bytes (256 tokens)", "t", 2, 1, "bf16")


def write(folder: Path, step: int, whole: bool = True) -> Path:
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    (path / "weights.pt").write_bytes(b"12345678")
    marker = {
        "progress": dataclasses.asdict(Progress(step, step * 4, step * 64)),
        "identity": dataclasses.asdict(OURS),
        "files": {"weights.pt": 8},
    }
    if whole:
        (path / "complete.json").write_text(json.dumps(marker))
    return path


def tags(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_found_in_nothing(tmp_path: Path) -> None:
    assert checkpoint_folder.newest(tmp_path / "none") is None
    (tmp_path / "step-latest").mkdir()
    assert checkpoint_folder.newest(tmp_path) is None


def test_broken_ones_are_passed_over_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, 9)
    write(tmp_path, 10)
    write(tmp_path, 11, whole=False)
    (write(tmp_path, 12) / "weights.pt").write_bytes(b"1234567")
    (write(tmp_path, 13) / "weights.pt").unlink()
    (write(tmp_path, 14) / "complete.json").write_text("{")
    (write(tmp_path, 15) / "complete.json").write_text('{"files": {}}')
    (write(tmp_path, 16) / "complete.json").write_bytes(b'{"files": {"\xa2": 1}}')
    told: list[tuple[str, str]] = []
    checkpoint = checkpoint_folder.newest(tmp_path, lambda tag, reason: told.append((tag, reason)))
    assert checkpoint == Checkpoint(tmp_path / "step-00000010", Progress(10, 40, 640), OURS)
    assert [tag for tag, _ in told] == [f"step-{n:08d}" for n in (16, 15, 14, 13, 12, 11)]
    assert told[0][1] == "complete.json has other bytes than were written (invalid start byte)"
    assert told[2][1].startswith("complete.json has other bytes than were written (Expecting property name")
    assert told[-1][1] == "it was not finished (complete.json is missing)"
    assert told[-2][1] == "weights.pt has 7 bytes instead of 8"
    assert told[-3][1] == "weights.pt is missing"


def test_pruning_keeps_the_newest_complete_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3, 5):
        write(tmp_path, step)
    write(tmp_path, 4, whole=False)
    write(tmp_path, 6, whole=False)  # newer than all complete ones: perhaps being written
    checkpoint_folder.prune(tmp_path, keep=2)
    assert tags(tmp_path) == ["step-00000003", "step-00000005", "step-00000006"]


def test_pruning_never_deletes_the_last_complete_one(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2, whole=False)
    checkpoint_folder.prune(tmp_path, keep=1)
    assert tags(tmp_path) == ["step-00000001", "step-00000002"]


def test_tags_are_ordered_by_step(tmp_path: Path) -> None:
    write(tmp_path, 99_999_999)
    write(tmp_path, 100_000_000)
    checkpoint = checkpoint_folder.newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.tag == "step-100000000"


def sealed(folder: Path, step: int) -> Path:
    """A checkpoint with digests, as `checkpoints.save` marks it."""
    path = write(folder, step, whole=False)
    carried = {
        "progress": dataclasses.asdict(Progress(step, step * 4, step * 64)),
        "identity": dataclasses.asdict(OURS),
    }
    checkpoint_folder.mark(path, carried, {"weights.pt": digests.of(path / "weights.pt")})
    return path


def test_a_marker_is_believed_only_as_it_was_written(tmp_path: Path) -> None:
    path = sealed(tmp_path, 7)
    assert checkpoint_folder.read(path).digests == {"weights.pt": digests.of(path / "weights.pt").digest}
    marker = path / "complete.json"
    marker.write_text(marker.read_text().replace('"samples": 28', '"samples": 29'))
    with pytest.raises(ValueError, match=r"complete\.json has other bytes than were written"):
        checkpoint_folder.read(path)


def test_a_distrusted_checkpoint_is_neither_found_nor_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        sealed(tmp_path, step)
    checkpoint_folder.distrust(tmp_path / "step-00000003", ["weights.pt has other bytes"])
    told: list[tuple[str, str]] = []
    newest = checkpoint_folder.newest(tmp_path, lambda *what: told.append(what))
    assert newest is not None
    assert newest.tag == "step-00000002"
    assert told == [("step-00000003", "it is damaged, see damaged.json")]
    checkpoint_folder.prune(tmp_path, keep=1)
    assert tags(tmp_path) == ["step-00000002", "step-00000003"]
    assert json.loads((tmp_path / "step-00000003/damaged.json").read_text())["damaged"] == [
        "weights.pt has other bytes"
    ]

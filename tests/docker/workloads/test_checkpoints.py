"""A checkpoint is resumed only if it is whole and of this run; the newest whole one is never deleted."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from workloads import checkpoints
from workloads.checkpoints import Checkpoint, Identity, Progress

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
    assert checkpoints.newest(tmp_path / "none") is None
    (tmp_path / "step-latest").mkdir()
    assert checkpoints.newest(tmp_path) is None


def test_broken_ones_are_passed_over_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, 9)
    write(tmp_path, 10)
    write(tmp_path, 11, whole=False)
    (write(tmp_path, 12) / "weights.pt").write_bytes(b"1234567")
    (write(tmp_path, 13) / "weights.pt").unlink()
    (write(tmp_path, 14) / "complete.json").write_text("{")
    (write(tmp_path, 15) / "complete.json").write_text('{"files": {}}')
    told: list[tuple[str, str]] = []
    checkpoint = checkpoints.newest(tmp_path, lambda tag, reason: told.append((tag, reason)))
    assert checkpoint == Checkpoint(tmp_path / "step-00000010", Progress(10, 40, 640), OURS)
    assert [tag for tag, _ in told] == [f"step-{n:08d}" for n in (15, 14, 13, 12, 11)]
    assert told[-1][1] == "it was not finished (complete.json is missing)"
    assert told[-2][1] == "weights.pt has 7 bytes instead of 8"
    assert told[-3][1] == "weights.pt is missing"


def test_pruning_keeps_the_newest_complete_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3, 5):
        write(tmp_path, step)
    write(tmp_path, 4, whole=False)
    write(tmp_path, 6, whole=False)  # newer than all complete ones: perhaps being written
    checkpoints._prune(tmp_path, keep=2)
    assert tags(tmp_path) == ["step-00000003", "step-00000005", "step-00000006"]


def test_pruning_never_deletes_the_last_complete_one(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2, whole=False)
    checkpoints._prune(tmp_path, keep=1)
    assert tags(tmp_path) == ["step-00000001", "step-00000002"]


def test_tags_are_ordered_by_step(tmp_path: Path) -> None:
    write(tmp_path, 99_999_999)
    write(tmp_path, 100_000_000)
    checkpoint = checkpoints.newest(tmp_path)
    assert checkpoint is not None
    assert checkpoint.tag == "step-100000000"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_fingerprint": "x", "model": "llama"}, "is of another model: llama, not gpt2 (7 parameters)"),
        (
            {"tokenizer_fingerprint": "x", "tokenizer": "bpe"},
            "another tokenizer: bpe, not bytes (256 tokens)",
        ),
        ({"world_size": 4}, "was written by 4 ranks with ZeRO-1 in bf16, and this run has 2 ranks"),
        (
            {"zero_stage": 3},
            "was written by 2 ranks with ZeRO-3 in bf16, and 2 ranks with ZeRO-1 in bf16 cannot",
        ),
        ({"precision": "fp32"}, "was written by 2 ranks with ZeRO-1 in fp32"),
        ({"zero_stage": 0}, "cannot read it"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, Progress(), dataclasses.replace(OURS, **change))
    refusal = checkpoints.refusal(checkpoint, OURS)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize("change", [{}, {"zero_stage": 2}, {"model": "other words", "tokenizer": "likewise"}])
def test_what_fits_is_not(change: dict[str, Any], tmp_path: Path) -> None:
    assert (
        checkpoints.refusal(Checkpoint(tmp_path, Progress(), dataclasses.replace(OURS, **change)), OURS)
        is None
    )


def test_without_partitions_any_number_of_ranks_fits(tmp_path: Path) -> None:
    plain = dataclasses.replace(OURS, zero_stage=0)
    checkpoint = Checkpoint(tmp_path, Progress(), dataclasses.replace(plain, world_size=8))
    assert checkpoints.refusal(checkpoint, plain) is None
    universal = Checkpoint(tmp_path, Progress(), dataclasses.replace(OURS, world_size=8), universal=True)
    assert checkpoints.refusal(universal, OURS) is None

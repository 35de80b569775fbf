"""A checkpoint is resumed only if it is of this run."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from workloads import checkpoints, four_bit
from workloads.checkpoint_folder import Checkpoint, Identity, Progress

if TYPE_CHECKING:
    from pathlib import Path

OURS = Identity("gpt2 (7 parameters)", "m", "bytes (256 tokens)", "t", 2, 1, "bf16")


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


def test_what_is_not_converted_says_why(tmp_path: Path) -> None:
    parted = Checkpoint(tmp_path, Progress(), dataclasses.replace(OURS, world_size=8))
    assert checkpoints.refusal(parted, OURS, converts=True) is None
    why = four_bit.unconverted(argparse.Namespace(lora_4bit=True))
    assert four_bit.unconverted(argparse.Namespace(lora_4bit=False)) == ""
    refused = checkpoints.refusal(parted, OURS, converts=why)
    assert refused == (
        f"{tmp_path} was written by 8 ranks with ZeRO-1 in bf16, and this run has 2 ranks with ZeRO-1 in bf16: {why}"
    )

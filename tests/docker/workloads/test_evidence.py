"""A step's samples have one digest however they are cut into ranks and micro batches, and another where one differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from workloads import evidence, metrics

if TYPE_CHECKING:
    from pathlib import Path

    from workloads.session import Session

pytestmark = pytest.mark.deepspeed


def digest(session: Session, folder: Path, *rows: torch.Tensor, copies: int = 1) -> str:
    kept = evidence.Evidence(session, metrics.Log(folder, writes=False), copies)
    for batch in rows:
        kept.see(batch)
    return kept.samples()


def test_samples(alone: Session, tmp_path: Path) -> None:
    rows = torch.arange(60).reshape(6, 10)
    whole = digest(alone, tmp_path, rows)
    assert digest(alone, tmp_path, rows[4:], rows[:1], rows[1:4]) == whole
    assert digest(alone, tmp_path, rows[:5], rows[4:5]) != whole  # one twice, one never
    other = rows.clone()
    other[5, 9] += 1
    assert digest(alone, tmp_path, other) != whole


def test_ranks_that_share_samples_count_them_once(
    alone: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.arange(60).reshape(6, 10)
    whole = digest(alone, tmp_path, rows)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(4))  # so many of them
    assert digest(alone, tmp_path, rows, copies=4) == whole


def test_a_digest_begins_anew_with_each_step(alone: Session, tmp_path: Path) -> None:
    kept = evidence.Evidence(alone, metrics.Log(tmp_path, writes=False))
    rows = torch.arange(20).reshape(2, 10)
    kept.see(rows)
    first = kept.samples()
    kept.see(rows)
    assert kept.samples() == first
    assert kept.samples() == "0" * 16

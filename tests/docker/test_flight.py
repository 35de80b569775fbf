"""torch's flight recorder: asked where a rank listens, and kept once it is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import flight
import pytest

if TYPE_CHECKING:
    from pathlib import Path


def test_a_rank_that_listens_is_asked_and_its_file_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe3.pipe")
    listening = os.open(tmp_path / "pipe3.pipe", os.O_RDONLY | os.O_NONBLOCK)
    variables = {
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(tmp_path / "pipe"),
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": str(tmp_path / "trace_"),
    }
    asked = flight.ask({3: variables, 4: variables, 5: {}})
    assert asked == {3: tmp_path / "trace_3"}
    assert os.read(listening, 9) == b"1\n"
    os.close(listening)
    (tmp_path / "trace_3").write_bytes(b"recorded")
    (tmp_path / "kept").mkdir()
    flight.keep(asked, 0.0, tmp_path / "kept")
    assert (tmp_path / "kept" / "flight-3").read_bytes() == b"recorded"


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe3.pipe")
    assert flight.ask({3: {"TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(tmp_path / "pipe")}}) == {}


@pytest.mark.parametrize("change", ["link", "regular", "owner"])
def test_what_another_user_may_have_laid_there_is_left_alone(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/tmp is everybody's: no link is followed, and nothing but the rank's own pipe and file is opened."""
    (tmp_path / "secret").write_bytes(b"secret")
    pipe, trace, kept = tmp_path / "pipe3.pipe", tmp_path / "trace_3", tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr(flight, "_PATIENCE", 0.05)
    if change == "regular":
        pipe.touch()
        os.mkfifo(trace)
    else:
        os.mkfifo(tmp_path / "other")
        (pipe.symlink_to if change == "link" else pipe.hardlink_to)(tmp_path / "other")
        (trace.symlink_to if change == "link" else trace.hardlink_to)(tmp_path / "secret")
        listening = os.open(tmp_path / "other", os.O_RDONLY | os.O_NONBLOCK)
    if change == "owner":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert flight.ask({3: {"TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(tmp_path / "pipe")}}) == {}
    flight.keep({3: trace}, 0.0, kept)
    assert list(kept.iterdir()) == []
    if change == "regular":
        assert pipe.read_bytes() == b""
    else:
        os.close(listening)

"""torch's flight recorder: asked where a rank listens, and kept once it is written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import flight

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

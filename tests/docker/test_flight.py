"""torch's flight recorder: asked where a rank listens, and kept once it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import flight
import pytest

from tests.docker import entries

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


# A rank with torch's own recorder, and a thread that does for gloo what NCCL's does: it waits for a line in the pipe.
RANK = """
import os, sys, threading, torch
from torch import distributed as dist
from torch._C._distributed_c10d import _dump_fr_trace
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
for _ in range(2):
    dist.all_reduce(torch.ones(3))
def answer():
    with open(sys.argv[1] + "0.pipe") as pipe:
        pipe.readline()
    with open(sys.argv[2] + "0", "wb") as file:
        file.write(_dump_fr_trace())
thread = threading.Thread(target=answer)
thread.start()
print("up", flush=True)
thread.join()
sys.stdin.readline()
from torch.distributed.flight_recorder.components.loader import read_dump
print([entry["profiling_name"] for entry in read_dump("flight-", sys.argv[3])["entries"]])
"""


@pytest.mark.heavy  # starts torch
def test_torchs_own_analyzer_reads_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the train extra is not installed")
    monkeypatch.setattr(flight, "_PATIENCE", entries.LIMIT)
    os.mkfifo(tmp_path / "pipe0.pipe")
    names = (tmp_path / "pipe", tmp_path / "trace_", tmp_path / "flight-0")
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK, *map(str, names)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with rank:
        assert rank.stdout
        assert any(line == "up\n" for line in rank.stdout)
        variables = {flight._PIPE: str(names[0]), "TORCH_FR_DUMP_TEMP_FILE": str(names[1])}
        asked: dict[int, Path] = {}
        entries.until(lambda: asked or asked.update(flight.ask({0: variables})) or asked, "its thread reads")
        flight.keep(asked, 0.0, tmp_path)
        said, _ = rank.communicate("\n", timeout=entries.LIMIT)
    assert (tmp_path / "flight-0").stat().st_size
    assert "['gloo:all_reduce', 'gloo:all_reduce']" in said

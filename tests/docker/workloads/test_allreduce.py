"""The network measurement with real ranks: its arithmetic is that of nccl-tests and its data arrives."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import pytest
from workloads import allreduce, session

from tests.docker.workloads import ranks

if TYPE_CHECKING:
    from pathlib import Path

ALL = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast")


def start(folder: Path, size: int, *args: str) -> ranks.Ranks:
    return ranks.start(folder, size, {}, *args, workload="allreduce", given=("run-dir",))


@pytest.mark.deepspeed
def test_every_collective_of_every_size(tmp_path: Path) -> None:
    args = ("--min-size=1K", "--max-size=64K", "--factor=8", "--iterations=3", "--warmup=1", "--collectives")
    run = start(tmp_path, 3, *args, *ALL)
    assert run.wait() == [0, 0, 0], run.output()
    written = json.loads((run.run_dir / allreduce.FILE).read_text())
    assert written["world_size"] == 3
    assert [(r["collective"], r["bytes"]) for r in written["results"]] == [
        (name, size // 12 * 12)  # whole float32 numbers for each of three ranks
        for name in ALL
        for size in (1024, 8192, 65536)
    ]
    factors = dict(zip(ALL, (4 / 3, 2 / 3, 2 / 3, 2 / 3, 1), strict=True))
    for result in written["results"]:
        assert result["wrong"] == 0
        assert result["algorithm_bandwidth"] == pytest.approx(result["bytes"] / result["seconds"] / 1e9)
        factor = factors[result["collective"]]
        assert result["bus_bandwidth"] == pytest.approx(result["algorithm_bandwidth"] * factor)
    for name, best in written["best_bus_bandwidth"].items():
        assert best == max(r["bus_bandwidth"] for r in written["results"] if r["collective"] == name)
    table = run.output(0).splitlines()
    assert table[2] == allreduce.HEAD
    assert len(table) == 3 + len(written["results"]) + 1
    assert run.output(1) == ""


@pytest.mark.deepspeed
def test_a_network_that_is_too_slow_ends_the_run(tmp_path: Path) -> None:
    run = start(tmp_path, 2, "--max-size=4K", "--require=1e6", "--dtype=bfloat16")
    assert run.wait() == [69, 69], run.output()
    assert "the bus bandwidth of all-reduce is" in run.output(0).splitlines()[-1]
    assert (run.run_dir / allreduce.FILE).exists()


def test_wrong_numbers_are_refused() -> None:
    good = allreduce.Result("all-reduce", 1024, 1.0, 1.0, 1.0, 0)
    allreduce.judge([good], {"all-reduce": 1.0}, required=1.0)
    bad = allreduce.Result("all-reduce", 2048, 1.0, 1.0, 1.0, 2)
    with pytest.raises(session.Stop, match="2048 bytes gave wrong numbers on 2 ranks"):
        allreduce.judge([good, bad], {"all-reduce": 1.0}, required=None)


@pytest.mark.parametrize(("text", "bytes_"), [("8", 8), ("64k", 65536), ("128M", 1 << 27), ("1G", 1 << 30)])
def test_sizes(text: str, bytes_: int) -> None:
    assert allreduce.size(text) == bytes_


@pytest.mark.parametrize("text", ["", "0", "1T", "-1", "1.5M", "M"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a size such as"):
        allreduce.size(text)

"""Starts a workload's ranks as forks of one process that has imported torch and DeepSpeed already.

For tests that need many short runs: a fork starts in a fraction of the time of a new interpreter. Real processes whose
signals, output and exit codes matter are started by ranks.py.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any
from unittest import mock

from tests.workloads import ranks

if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from pathlib import Path

HEAVY = ("torch", "deepspeed", "transformers.models.llama.modeling_llama", "torch._dynamo")


def run(
    folder: Path,
    size: int,
    deepspeed: Mapping[str, Any],
    *args: str,
    model: str | Mapping[str, Any] = ranks.GPT2,
    workload: str = "pretrain",
    given: Container[str] = ("deepspeed-config", "run-dir", "model"),
    code: int = 0,
) -> ranks.Ranks:
    """Run `size` ranks of a workload in `folder`/run to their end, which must be `code` for each."""
    files = ranks.files(folder, deepspeed, model)
    words = [f"--{name}={value}" for name, value in files.items() if name in given] + [*args]
    outputs = [folder / f"rank-{rank}.log" for rank in range(size)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*HEAVY])
    with mock.patch.dict(os.environ, ranks.environment(0, 1, 0)):
        forkserver.ensure_running()  # what is imported there reads some variables once
    port = ranks.free_port()
    processes = [
        context.Process(
            target=_rank, args=(workload, words, ranks.environment(rank, size, port), str(outputs[rank]))
        )
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(ranks.TIMEOUT)
    ended = ranks.Ranks([], files["run-dir"], outputs)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [code] * size, f"{codes}\n{ended.output()}"
    return ended


def _rank(workload: str, words: list[str], environment: dict[str, str], output: str) -> None:
    with open(output, "wb") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [workload, *words]
    runpy.run_module(f"workloads.{workload}", run_name="__main__", alter_sys=False)

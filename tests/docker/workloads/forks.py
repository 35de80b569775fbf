"""Ranks as forks of one process that has imported torch, DeepSpeed and Transformers: four seconds less for each.

Owns that process, one for each pytest worker, and a handle of a fork that is used like a subprocess.Popen. ranks.py
decides which ranks are forks. A fork is a process of its own with its own signals, output and exit code; what it does
not show is an interpreter's start.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

HEAVY = (
    *("torch", "torch._dynamo", "deepspeed", "transformers.trainer"),
    *("transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama"),
    *("deepspeed.module_inject.auto_ep_layer", "trl.trainer.sft_trainer"),
    "tests.docker.workloads.preloaded",
)


class Fork:
    """A started rank."""

    def __init__(
        self, module: str, words: Sequence[str], environment: Mapping[str, str], output: Path
    ) -> None:
        self.args = (module, *words)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(HEAVY))
        target = (module, list(words), dict(environment), str(output))
        self._process = context.Process(target=_rank, args=target)
        # The first one starts the process that is forked, so what is read at imports is read from this environment;
        # a rank's session says the same of Transformers before it is imported.
        with mock.patch.dict(os.environ, {**environment, "TRANSFORMERS_VERBOSITY": "error"}, clear=True):
            multiprocessing.forkserver.ensure_running()
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()


def _rank(module: str, words: list[str], environment: dict[str, str], output: str) -> None:
    """A rank's life, from where `python -u -m module` would be."""
    # as on Linux by itself: a data loader's workers end with the rank, whose children they are
    multiprocessing.set_start_method("fork", force=True)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(write_through=True)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

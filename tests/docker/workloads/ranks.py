"""Starts a workload's ranks as real processes of this host, as the node entry does, and waits for them.

Owns processes and the files a rank is given; what they should do is said by the tests. Most ranks are forks (forks.py);
what depends on an interpreter's start, such as memory and signals that come early, has new interpreters.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.docker.workloads import forks

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Container, Mapping, Sequence

DOCKER = Path(__file__).parents[3] / "docker"
TIMEOUT = 240.0  # several times what a run takes on two busy cores

GPT2 = {  # with GPT-2's own dropout of 0.1 in the residual path, which depends on random numbers
    "model_type": "gpt2",
    "vocab_size": 256,
    "n_positions": 64,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 2,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Ranks:
    """Running ranks; their output goes to one file each."""

    processes: Sequence[subprocess.Popen[bytes] | forks.Fork]
    run_dir: Path
    outputs: list[Path]

    def wait(self, seconds: float = TIMEOUT) -> list[int]:
        """Every rank's exit code. Fails, after killing them, when they do not end in time."""
        end = time.monotonic() + seconds
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"ranks hang:\n{self.output()}") from None
        finally:
            self.kill()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that ranks do. Fails when they end, or take too long, before."""
        end = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < end, f"it did not happen:\n{self.output()}"
            assert None in [process.poll() for process in self.processes], f"ranks ended:\n{self.output()}"
            time.sleep(0.02)

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def output(self, rank: int | None = None) -> str:
        """What a rank printed, or all of them."""
        chosen = self.outputs if rank is None else [self.outputs[rank]]
        return "\n".join(path.read_text() for path in chosen)

    def lines(self) -> list[dict[str, Any]]:
        """metrics.jsonl, its whole lines."""
        path = self.run_dir / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def steps(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "event" not in line]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("event") == name]

    def losses(self) -> dict[int, float]:
        """Step → loss; of a step that was repeated, the later one."""
        return {line["step"]: line["loss"] for line in self.steps()}

    def tags(self) -> list[str]:
        return sorted(path.name for path in (self.run_dir / "checkpoints").glob("step-*"))


def start(
    folder: Path,
    size: int,
    deepspeed: Mapping[str, Any],
    *args: str,
    model: str | Mapping[str, Any] = GPT2,
    before: Callable[[], object] | None = None,
    workload: str = "pretrain",
    module: str = "",
    given: Container[str] = ("deepspeed-config", "run-dir", "model"),
    env: Mapping[str, str] | None = None,
    hosts: bool = False,
) -> Ranks:
    """Start `size` ranks of a run in `folder`/run. A model that is a mapping becomes a folder with that config.

    `given` are the options of the launcher that the workload has; `module` is one that is not a workload; `env` holds
    over what a rank's environment has; with `hosts` each rank is told that it is alone on a host.
    With `before` or `env` the ranks are new interpreters.
    """
    run_dir = folder / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, str):
        place = folder / "model"
        place.mkdir(exist_ok=True)
        (place / "config.json").write_text(json.dumps(model))
        model = str(place)
    config = folder / "deepspeed.json"
    config.write_text(json.dumps(deepspeed))
    ours = {"deepspeed-config": config, "run-dir": run_dir, "model": model}
    words = [f"--{name}={value}" for name, value in ours.items() if name in given] + [*args]
    outputs = [folder / f"rank-{rank}.log" for rank in range(size)]
    port = _free_port()
    new = before or env
    processes: list[subprocess.Popen[bytes] | forks.Fork] = []
    for rank, output in enumerate(outputs):
        told = {"LAUNCHER_HEARTBEAT": str(folder)}  # rank-N: docker/heartbeat.py
        environment = _environment(rank, size, port) | told | dict(env or {})
        environment |= _of_a_host(rank, size) if hosts else {}
        name = module or f"workloads.{workload}"
        processes.append(
            _interpreter([name, *words], environment, output, before)
            if new
            else forks.Fork(name, words, environment, output)
        )
    return Ranks(processes, run_dir, outputs)


def start_cases(folder: Path, size: int, cases: object) -> Ranks:
    """Start `size` ranks in the new folder, which run one of cuts.py's cases after the other."""
    folder.mkdir()
    file = folder / "cases.json"
    file.write_text(json.dumps(cases))
    return start(folder, size, {}, str(file), module="tests.docker.workloads.cuts", given=())


def run(
    folder: Path, size: int, deepspeed: Mapping[str, Any], *args: str, code: int = 0, **more: Any
) -> Ranks:
    """The ranks of `start`, once each has ended with `code`."""
    ranks = start(folder, size, deepspeed, *args, **more)
    assert ranks.wait() == [code] * size, ranks.output()
    return ranks


def _interpreter(
    words: Sequence[str], environment: Mapping[str, str], output: Path, before: Callable[[], object] | None
) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=before,
        )


def deepspeed(
    size: int,
    stage: int,
    micro: int = 4,
    accumulation: int = 1,
    zero: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A DeepSpeed config of a ZeRO stage, with batch numbers for this many ranks.

    Of models as small as the tests' DeepSpeed's defaults would partition no weight and reduce all gradients at once.
    """
    few = 20_000
    buckets = {"reduce_bucket_size": few, "allgather_bucket_size": few} if stage else {}
    if stage == 3:
        buckets |= {
            "stage3_param_persistence_threshold": 0,
            "stage3_prefetch_bucket_size": few,
            "stage3_max_live_parameters": 2 * few,
            "stage3_max_reuse_distance": 2 * few,
        }
    return {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro * accumulation * size,
        "zero_optimization": {"stage": stage, **buckets, **(zero or {})},
        **more,
    }


def handles(process: subprocess.Popen[bytes] | forks.Fork, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": "",  # no compiler, no ninja: nothing may be built at start-up
        "PYTHONPATH": f"{DOCKER}{os.pathsep}{DOCKER.parent}",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "CROSS_RANK": "0",
        "CROSS_SIZE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _of_a_host(rank: int, size: int) -> dict[str, str]:
    alone = {"LOCAL_RANK": "0", "LOCAL_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return {**alone, "CROSS_RANK": str(rank), "CROSS_SIZE": str(size)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

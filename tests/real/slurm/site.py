"""A user of a Slurm site, as tests play one: a folder with a job and a cluster file, and the command line.

Owns what tests ask of a run; the cluster is cluster.py's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any

from tests import commandline

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.slurm.cluster import Cluster

ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}
PAUSE = 1.0  # seconds between two questions, which take of the processors that the ranks could use
CLUSTER = """\
slots: 1
fabric: tcp
interface: eth0
slurm:
  partition: debug
  signal_seconds: 30
"""
# nodes share this machine's cores, all of which each of them takes for its own
ENV = {"OMP_NUM_THREADS": "1"}
JOB = f"""\
name: tiny
cluster: ./site.yaml
nodes: 2
walltime: 5m
model: byte-gpt
batch: {{micro: 2, global: 4}}
deepspeed: zero1
args: {{seq-length: 64, lr: 1.0e-3, max-steps: 16, log-every: 1}}
checkpoint: {{every: 100, keep: 2}}
preflight: false
env: {json.dumps(ENV)}
"""


class Site:
    """A user's folder on the shared file system, by default with a quote and a blank in its name."""

    def __init__(self, folder: Path, cluster: Cluster, name: str = "it's here") -> None:
        self.folder, self.cluster = folder / name, cluster
        self.folder.mkdir()
        (self.folder / "site.yaml").write_text(CLUSTER)
        (self.folder / "job.yaml").write_text(JOB)
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")},
            "SLURM_CONF": str(cluster.conf),
            "LAUNCHER_RUNS": str(self.folder / "runs"),
        }

    def launcher(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "launcher", *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def submit(self, *settings: str) -> str:
        words = [w for s in settings for w in ("--set", s)]
        return self.launcher("slurm", "job.yaml", *words).stdout.strip()

    def status(self, run: str) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(commandline.asked(["status", run, "--json"], self.env, self.folder))
        return read

    def wait(self, run: str, until: Callable[[dict[str, Any]], bool], limit: float = 150) -> dict[str, Any]:
        deadline = time.monotonic() + limit
        while not until(now := self.status(run)):
            self._goes_on(run, now, deadline)
            time.sleep(PAUSE)
        return now

    def shown(self, run: str, seen: Callable[[], object], limit: float = 150) -> dict[str, Any]:
        """The status once the run's files show something: they are looked at often, Slurm is asked seldom."""
        deadline = time.monotonic() + limit
        ask = time.monotonic() + 5 * PAUSE
        while not seen():
            if time.monotonic() > ask:
                self._goes_on(run, self.status(run), deadline)
                ask = time.monotonic() + 5 * PAUSE
            time.sleep(PAUSE / 10)
        return self.status(run)

    def _goes_on(self, run: str, now: dict[str, Any], deadline: float) -> None:
        over = now["state"] in ENDED or time.monotonic() > deadline
        assert not over, f"{now}\n{self.all_logs(run)}"

    def ended(self, run: str) -> dict[str, Any]:
        return self.wait(run, lambda now: now["state"] in ENDED)

    def path(self, run: str) -> Path:
        return self.folder / "runs" / run

    def metrics(self, run: str) -> list[dict[str, Any]]:
        """Its whole lines."""
        path = self.path(run) / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def losses(self, run: str) -> dict[int, float]:
        steps = [r for r in self.metrics(run) if "loss" in r and "event" not in r]
        assert len({r["step"] for r in steps}) == len(steps), "a step was repeated"
        return {r["step"]: r["loss"] for r in steps}

    def program(self, text: str) -> list[str]:
        """Settings of a job that runs this Python text instead of training."""
        path = self.folder / f"program-{zlib.crc32(text.encode())}.py"
        path.write_text(text)
        return [f"workload={json.dumps(str(path))}", "args={}", "batch={micro: 1}"]

    def held(self, gate: Path, then: str = "") -> list[str]:
        """Settings of a job that waits until there is a file `gate`, and then does what the Python text says."""
        wait = f"while not pathlib.Path({str(gate)!r}).exists():\n    time.sleep(0.1)\n"
        return self.program(f"import pathlib, time\n{wait}{then}\n")

    def starts(self, run: str) -> list[dict[str, Any]]:
        """The start event of every attempt."""
        return [r for r in self.metrics(run) if r.get("event") == "start"]

    def all_logs(self, run: str) -> str:
        logs = sorted((self.path(run) / "logs").glob("*.log"))
        return "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-1500:]}" for p in logs)

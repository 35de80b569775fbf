"""`make bench`: what a command costs, how rendering grows, and the way to the first training step.

Owns the measuring; nothing here is a test, since a busy machine would make it fail. CPU time is user + system of the
whole process, the best of several rounds; TorchX is measured in the same rounds where it is installed. Python may keep
what it compiles, as it does for users and as pip has done for TorchX.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import ROOT, schedulers
from launcher.planning import plan
from launcher.reports import tables
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Sequence

REPEAT = 10


def cost(words: Sequence[str], cwd: Path = ROOT) -> tuple[float, float]:
    """(CPU seconds, MB) of a command. Raises CalledProcessError when it fails: a failure costs something else."""
    probe = (
        "import json, resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL, check=True); u = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(json.dumps([u.ru_utime + u.ru_stime, u.ru_maxrss / 1024]))"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    measured = [sys.executable, "-c", probe, *words]
    done = subprocess.run(measured, cwd=cwd, env=env, capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def commands() -> None:
    """CPU time and memory of whole commands."""
    ours = [sys.executable, "-m", "launcher"]
    job = "jobs/llama-7b.yaml"
    rows: dict[str, list[str]] = {
        "launcher --help": [*ours, "--help"],
        "launcher slurm … --dry-run": [*ours, "slurm", job, "--dry-run"],
        "launcher kubernetes … --dry-run": [*ours, "kubernetes", job, "--dry-run"],
        "launcher plan": [*ours, "plan", job],
    }
    torchx = Path(sys.executable).with_name("torchx")
    if torchx.exists():
        dist = ["dist.ddp", "-j", "2x8", "--script", "train.py"]
        rows["torchx run --dryrun -s slurm"] = [str(torchx), "run", "--dryrun", "-s", "slurm", *dist]
        rows["torchx run --dryrun -s kubernetes"] = [
            *(str(torchx), "run", "--dryrun", "-s", "kubernetes", "--workspace", "", "-cfg", "queue=default"),
            *dist,  # with a workspace it would ask Docker
        ]
    rounds = [{name: cost(words) for name, words in rows.items()} for _ in range(REPEAT)]
    found = {
        name: tuple(min(costs) for costs in zip(*(r[name] for r in rounds), strict=True)) for name in rows
    }
    print(
        tables.table(
            [(n, f"{c:.2f} s", f"{m:.0f} MB") for n, (c, m) in found.items()], ("COMMAND", "CPU", "MEMORY")
        )
    )
    if torchx.exists():
        for kind in ("slurm", "kubernetes"):
            seconds, theirs = (
                found[f"launcher {kind} … --dry-run"][0],
                found[f"torchx run --dryrun -s {kind}"][0],
            )
            print(f"{kind}: {seconds / theirs:.2f} of TorchX's CPU time")
    else:
        print("TorchX is not installed, so it was not measured (pip install torchx)")


def rendering() -> None:
    """Time and size of what is rendered, for 2 and for 4,096 hosts."""
    rows = []
    for nodes in (2, 4096):
        batch = f"batch.global={nodes * 8 * 4}"
        decided = plan.make(
            samples.loaded("jobs/llama-7b.yaml", None, [f"nodes={nodes}", batch]), samples.SITE
        )
        for name in ("slurm", "kubernetes"):
            scheduler = schedulers.load(name)
            scheduler.render(decided)
            began = time.perf_counter()
            for _ in range(20):
                text = "".join(scheduler.render(decided).values())
            spent = (time.perf_counter() - began) / 20
            rows.append(
                (
                    name,
                    str(nodes),
                    f"{spent * 1e3:.2f} ms",
                    f"{text.count(chr(10))}",
                    f"{len(text) / 1e3:.0f} kB",
                )
            )
    print(tables.table(rows, ("RENDER", "HOSTS", "TIME", "LINES", "SIZE")))


_HAND, _OURS, _GATED = "hand-written sbatch", "launcher slurm", "launcher slurm, with preflight"
BY_HAND = """\
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --output={run}/out.log
export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n1) MASTER_PORT=29511 GLOO_SOCKET_IFNAME=eth0
export PYTHONPATH={root}/docker OMP_NUM_THREADS=4
srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=0 WORLD_SIZE=2 LOCAL_SIZE=1 LOCAL_WORLD_SIZE=1 exec {python} -u \
 -m workloads.pretrain --deepspeed-config {run}/ds_config.json --run-dir {run} --model byte-gpt --seq-length 64 \
 --max-steps 2 --lr 1e-3'
"""
JOB = """\
name: bench
walltime: 10m
cluster: ./site.yaml
nodes: 2
model: byte-gpt
batch: {micro: 2}
deepspeed: zero1
args: {seq-length: 64, lr: 1.0e-3, max-steps: 2}
"""


def first_step(metrics: Path, limit: float = 180) -> float:
    """When the first step of the run was logged (Unix time)."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            for line in metrics.read_text().splitlines():
                record = json.loads(line)
                if "loss" in record and "event" not in record:
                    return float(record["time"])
        time.sleep(0.1)
    raise TimeoutError(metrics)


def start_on_slurm(rounds: int = 3) -> None:
    """From the command line to the first step on a real Slurm cluster, against a hand-written script, alternating."""
    from tests.real.slurm import cluster, config, requirements

    why = requirements.obstacle()
    if why:
        raise SystemExit(f"no Slurm cluster here: {why}")
    with (
        cluster.Cluster(config.Settings(nodes=2)) as slurm,
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
    ):
        os.environ["SLURM_CONF"] = str(slurm.conf)
        times: dict[str, list[float]] = {_HAND: [], _OURS: [], _GATED: []}
        for number in range(rounds):
            run = Path(folder) / f"hand{number}"
            run.mkdir()
            batch = {
                "train_batch_size": 4,
                "train_micro_batch_size_per_gpu": 2,
                "gradient_accumulation_steps": 1,
            }
            (run / "ds_config.json").write_text(json.dumps({**batch, "zero_optimization": {"stage": 1}}))
            (run / "job.sh").write_text(BY_HAND.format(run=run, root=ROOT, python=sys.executable))
            began = time.time()
            subprocess.run(["sbatch", "--wait", run / "job.sh"], check=True, capture_output=True, cwd=run)
            times[_HAND].append(first_step(run / "metrics.jsonl") - began)
            (run / "site.yaml").write_text("slots: 1\nfabric: tcp\ninterface: eth0\n")
            (run / "job.yaml").write_text(JOB)
            for name, setting in ((_OURS, "preflight=false"), (_GATED, "preflight=true")):
                env = {**os.environ, "LAUNCHER_RUNS": str(run / setting)}
                began = time.time()
                words = [sys.executable, "-m", "launcher", "slurm", "job.yaml", "--wait", "--set", setting]
                subprocess.run(words, check=True, capture_output=True, cwd=run, env=env)
                times[name].append(first_step(next(run.glob(f"{setting}/*/metrics.jsonl"))) - began)
        hand = statistics.median(times[_HAND])
        rows = [
            (
                name,
                f"{statistics.median(t):.1f} s",
                f"{statistics.median(t) - hand:+.1f} s",
                " ".join(f"{x:.1f}" for x in t),
            )
            for name, t in times.items()
        ]
        print(tables.table(rows, ("TO THE FIRST STEP", "MEDIAN", "BY HAND", "ROUNDS")))


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, peak of this process "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB\n")  # fmt: skip
    commands()
    print()
    rendering()
    print()
    if os.geteuid() == 0 and Path("/usr/sbin/slurmctld").exists():
        start_on_slurm()
    else:
        print("no Slurm here (root and Debian's slurm-wlm), so the way to the first step was not measured")


if __name__ == "__main__":
    main()

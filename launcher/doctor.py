"""What this machine has and lacks for running jobs, here or on a cluster from here.

Owns the looking; nothing is changed. torch and DeepSpeed are asked in a process of their own.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher import show, units

if TYPE_CHECKING:
    from collections.abc import Iterator

# Prints facts as JSON: DeepSpeed's op builders know what is prebuilt, what could be compiled, and what cannot be.
_PROBE = """
import contextlib, importlib.metadata as m, io, json, logging, os, sys
out = {}
for name in ("torch", "deepspeed", "transformers"):
    try: out[name] = m.version(name)
    except m.PackageNotFoundError: out[name] = None
try:
    import torch
    out["cuda"] = torch.version.cuda
    out["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    out["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if out["gpus"] else None
except Exception as error: out["torch_error"] = str(error)
if out["deepspeed"]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)
        try:
            from deepspeed.git_version_info import installed_ops, accelerator_name
            from deepspeed.accelerator import get_accelerator
            from deepspeed.ops.op_builder.all_ops import ALL_OPS
            out["accelerator"] = get_accelerator()._name
            same = accelerator_name in ("", get_accelerator()._name)
            def how(name, builder):
                if same and installed_ops.get(name): return "prebuilt"
                if builder.is_compatible(): return "compiled on first use"
                return f"cannot work here: {builder.error_log or 'a library or a compiler is missing'}"
            out["ops"] = {n: how(n, b) for n, b in sorted(ALL_OPS.items()) if n != "deepspeed_not_implemented"}
        except Exception as error: out["ops_error"] = str(error)
print(json.dumps(out))
"""

State = Literal["ok", "missing", "warning"]


@dataclass(frozen=True)
class Finding:
    area: str
    name: str
    state: State
    detail: str


def findings() -> list[Finding]:
    """Everything that was looked at, in the order of the report."""
    return [*_machine(), *_python(), *_slurm(), *_kubernetes(), *_containers()]


def report() -> str:
    """The findings as a table."""
    marks = {"ok": "ok", "missing": "--", "warning": "!!"}
    return show.table((f.area, f.name, marks[f.state], f.detail) for f in findings())


def report_json() -> str:
    """The findings for a program: a list of {area, name, state, detail}."""
    return json.dumps([asdict(f) for f in findings()], indent=2)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("machine", "cores", "ok", str(cores))
    with_shm = Path("/dev/shm")
    if with_shm.is_dir():
        size = shutil.disk_usage(with_shm).total
        # DeepSpeed's own ds_report warns below this size
        low = size < 512 * 1024**2
        yield Finding("machine", "/dev/shm", "warning" if low else "ok", units.gigabytes(size))
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    unlimited = locked == resource.RLIM_INFINITY
    text = "unlimited" if unlimited else f"{units.gigabytes(locked)}; RDMA fabrics need unlimited"
    yield Finding("machine", "memlock", "ok" if unlimited else "warning", text)
    for tool, use in (
        ("nvidia-smi", "NVIDIA driver"),
        ("ibv_devinfo", "RDMA devices"),
        ("fi_info", "EFA/libfabric"),
    ):
        yield _tool("machine", tool, use)


def _python() -> Iterator[Finding]:
    yield Finding("python", "python", "ok", f"{platform.python_version()} at {sys.executable}")
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=180)
        facts = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        yield Finding(
            "python", "torch", "warning", "asking it failed; try `python -c 'import torch, deepspeed'`"
        )
        return
    for name in ("torch", "deepspeed", "transformers"):
        version = facts[name]
        yield Finding(
            "python", name, "ok" if version else "missing", version or "pip install '.[train]' brings it"
        )
    if facts.get("torch"):
        gpus = facts.get("gpus") or []
        detail = facts.get("torch_error") or (
            f"{len(gpus)} × {gpus[0]}" if gpus else "none: ranks run on the CPU"
        )
        yield Finding("python", "GPUs", "ok" if gpus else "missing", detail)
        built = facts.get("cuda")
        yield Finding("python", "CUDA of torch", "ok" if built else "missing", built or "a CPU build")
        if facts.get("nccl"):
            yield Finding("python", "NCCL of torch", "ok", facts["nccl"])
    if facts.get("ops_error"):
        yield Finding("ops", "DeepSpeed", "warning", facts["ops_error"])
    for op, how in (facts.get("ops") or {}).items():
        state: State = "ok" if how == "prebuilt" else "missing" if how.startswith("cannot") else "warning"
        yield Finding("ops", op, state, how)
    for tool, use in (
        ("ninja", "compiles ops on first use"),
        ("g++", "compiles ops on first use"),
        ("nvcc", "GPU ops"),
    ):
        yield _tool("ops", tool, use)


def _slurm() -> Iterator[Finding]:
    if not shutil.which("sinfo"):
        yield Finding("slurm", "sinfo", "missing", "no Slurm here; --dry-run works")
        return
    yield _asked("slurm", "partitions", ["sinfo", "-h", "-o", "%R: %D hosts %a"])
    yield _asked("slurm", "accounting", ["sacctmgr", "-n", "-P", "list", "cluster", "format=cluster"])
    helped = subprocess.run(["srun", "--help"], capture_output=True, text=True).stdout
    pyxis = "--container-image" in helped
    yield Finding(
        "slurm",
        "pyxis",
        "ok" if pyxis else "missing",
        "srun has --container-image" if pyxis else "not in srun",
    )


def _kubernetes() -> Iterator[Finding]:
    if not shutil.which("kubectl"):
        yield Finding("kubernetes", "kubectl", "missing", "not needed by the launcher itself")
    else:
        yield _asked("kubernetes", "kubectl context", ["kubectl", "config", "current-context"])
    config = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    there = any(Path(p).is_file() for p in config.split(os.pathsep) if p)
    yield Finding("kubernetes", "kubeconfig", "ok" if there else "missing", config)


def _containers() -> Iterator[Finding]:
    for tool in ("docker", "podman", "buildah", "apptainer", "enroot", "skopeo"):
        yield _tool("containers", tool, "")


def _tool(area: str, tool: str, use: str) -> Finding:
    path = shutil.which(tool)
    return Finding(area, tool, "ok" if path else "missing", path or use)


def _asked(area: str, name: str, words: list[str]) -> Finding:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(area, name, "missing", str(error))
    first = ", ".join(done.stdout.split("\n")).strip(", ")
    refused = done.stderr.strip().splitlines()
    return (
        Finding(area, name, "ok", first)
        if done.returncode == 0
        else Finding(
            area, name, "warning", refused[-1] if refused else f"{words[0]} ended with {done.returncode}"
        )
    )

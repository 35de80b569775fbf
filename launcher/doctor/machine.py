"""The host: processor, /dev/shm, memlock, libaio, the NVIDIA driver, networks, container engines, schedulers."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import units
from launcher.doctor.looking import Check, command, program
from launcher.planning import cards

if TYPE_CHECKING:
    from collections.abc import Iterator

# What each psABI level adds, as Linux names it in /proc/cpuinfo: https://gitlab.com/x86-psABIs/x86-64-ABI
_ADDS = {
    "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "x86-64-v3": "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    "x86-64-v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}
# Debian and Ubuntu renamed it for 64-bit time.
_LIBAIO = ("libaio.so.1", "libaio.so.1t64")
_ENGINES = {
    "podman": "",
    "buildah": "builds images",
    "apptainer": "Slurm's `container: apptainer`",
    "enroot": "Slurm's `container: pyxis`",
    "ch-run": "Slurm's `container: charliecloud`",
    "runc": "Slurm's `container: oci`",
    "nvidia-ctk": "GPUs in docker and podman",
    "skopeo": "reads the labels of images in registries",
}


def checks() -> Iterator[Check]:
    """What training needs of the host."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("machine", "cores", "ok", str(cores))
    level = cpu_level(flags())
    if level:
        yield Check("machine", "cpu level", "ok", f"{level} (the cluster file's `cpu_level`)")
    shm = Path("/dev/shm")
    if shm.is_dir():
        size = shutil.disk_usage(shm).total
        low = size < 512 * 1024**2  # DeepSpeed's own ds_report warns below this size
        more = "; NCCL and data loaders need 1 GB: --shm-size=1g, --ipc=host" if low else ""
        yield Check("machine", "/dev/shm", "warning" if low else "ok", f"{units.gigabytes(size)}{more}")
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    unlimited = locked == resource.RLIM_INFINITY
    text = "unlimited" if unlimited else f"{units.gigabytes(locked)}; RDMA fabrics need unlimited"
    yield Check("machine", "memlock", "ok" if unlimited else "warning", text)
    aio = next((name for name in _LIBAIO if _library(name)), "")
    yield Check(
        "machine", "libaio", "ok" if aio else "missing", aio or "offload to NVMe needs it: libaio1t64"
    )
    yield from _driver()
    yield program("machine", "ibv_devinfo", "RDMA devices")
    yield program("machine", "fi_info", "EFA/libfabric")


def cpu_level(flags: set[str]) -> str:
    """The highest psABI level whose features /proc/cpuinfo's `flags` all have; empty when there are none (not x86)."""
    level = "x86-64" if "lm" in flags else ""
    for name, adds in _ADDS.items():
        if not level or not set(adds.split()) <= flags:
            break
        level = name
    return level


def flags() -> set[str]:
    """What /proc/cpuinfo says this processor can do; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _driver() -> Iterator[Check]:
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total,compute_cap",
        "--format=csv,noheader",
    ]
    yield command("machine", "NVIDIA GPUs", query, "no nvidia-smi, so no driver")
    for card, count in Counter(cards.here()).items():
        size = f"{count} × {card.model}, {card.memory / 2**30:.1f} GiB"
        yield Check("machine", "gpu", "ok", f"{size}: in a cluster file `{card.written}`, `slots: {count}`")
    cuda = driver()
    yield Check("machine", "CUDA of driver", "ok" if cuda else "missing", cuda or "no libcuda.so.1")
    nccl, version = _library("libnccl.so.2"), ctypes.c_int()
    if nccl and nccl.ncclGetVersion(ctypes.byref(version)) == 0:
        yield Check("machine", "NCCL of system", "ok", f"{nccl_version(version.value)}; torch brings its own")


def driver() -> str:
    """The newest CUDA that the driver here runs, such as 13.2; empty without a driver."""
    library, version = _library("libcuda.so.1"), ctypes.c_int()
    known = library is not None and library.cuDriverGetVersion(ctypes.byref(version)) == 0
    return driver_cuda(version.value) if known else ""


def driver_cuda(number: int) -> str:
    """cuDriverGetVersion's number as people write it: 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def nccl_version(number: int) -> str:
    """ncclGetVersion's number as people write it: 22907 is 2.29.7."""
    return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"


def _library(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def containers() -> Iterator[Check]:
    """Container engines with their versions."""
    server = ["docker", "version", "--format", "{{.Server.Version}}"]
    yield command("containers", "docker", server, "runs and builds images")
    for name, use in _ENGINES.items():
        yield command("containers", name, [name, "--version"], use)


def slurm() -> Iterator[Check]:
    """Slurm, its accounting and its containers."""
    if not shutil.which("sinfo"):
        yield Check("slurm", "sinfo", "missing", "no Slurm on this machine; --dry-run works")
        return
    yield command("slurm", "partitions", ["sinfo", "-h", "-o", "%R: %D hosts %a"])
    yield command("slurm", "accounting", ["sacctmgr", "-n", "-P", "list", "cluster", "format=cluster"])
    options = command("slurm", "pyxis", ["srun", "--help"])
    if options.state != "ok":
        yield options
        return
    pyxis = "--container-image" in options.detail
    detail = "srun has --container-image" if pyxis else "not in srun"
    yield Check("slurm", "pyxis", "ok" if pyxis else "missing", detail)


def kubernetes() -> Iterator[Check]:
    """A kubeconfig, and kubectl's context."""
    use = "no kubectl; the launcher itself does not need it"
    yield command("kubernetes", "kubectl context", ["kubectl", "config", "current-context"], use)
    config = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    there = any(Path(p).is_file() for p in config.split(os.pathsep) if p)
    yield Check("kubernetes", "kubeconfig", "ok" if there else "missing", config)

"""Python's side: torch, CUDA, NCCL, and for each of DeepSpeed's ops whether it is prebuilt, compiled, or cannot work.

Owns the judgement; torch and DeepSpeed are asked for facts in a process of their own, which a broken install may kill.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import ROOT
from launcher.doctor import machine
from launcher.doctor.looking import Check
from launcher.errors import SpecError
from launcher.images import facts as images_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.doctor.looking import State

IMAGE = Path("/opt/image.json")  # inside an image of `make image`
_PACKAGES = ("torch", "deepspeed", "transformers")
# Prints facts as JSON. DeepSpeed's op builders know what their sources need; extra_ldflags is where some find out.
_PROBE = """
import contextlib, importlib.metadata as m, io, json, logging, sys
out = {"python": sys.version.split()[0], "executable": sys.executable}
for name in sys.argv[1:]:
    try: out[name] = m.version(name)
    except m.PackageNotFoundError: out[name] = None
try:
    import torch
    out["cuda"] = torch.version.cuda
    out["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    out["capabilities"] = [list(torch.cuda.get_device_capability(i)) for i in range(len(out["gpus"]))]
    out["nccl"] = ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda else None
except Exception as error: out["torch_error"] = str(error)
def facts(builder):
    said = []
    builder.warning = said.append
    try: fits = bool(builder.is_compatible(verbose=True)); builder.include_paths(); builder.extra_ldflags()
    except Exception as error: fits = False; said.insert(0, str(error))
    return {"prebuilt": bool(installed_ops.get(builder.name)), "fits": fits, "why": said[0] if said else "",
            "key": builder.BUILD_VAR.removeprefix("DS_BUILD_"), "gpu": isinstance(builder, CUDAOpBuilder)}
if out["deepspeed"]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)
        try:
            from deepspeed.git_version_info import installed_ops, accelerator_name, torch_info
            from deepspeed.accelerator import get_accelerator
            from deepspeed.ops.op_builder.all_ops import ALL_OPS
            from deepspeed.ops.op_builder.builder import CUDAOpBuilder
            out["accelerator"], out["built_for"] = get_accelerator()._name, accelerator_name
            out["built_with"] = torch_info["version"]
            out["ops"] = {n: facts(b) for n, b in sorted(ALL_OPS.items()) if n != "deepspeed_not_implemented"}
        except Exception as error: out["ops_error"] = f"{type(error).__name__}: {error}"
print(json.dumps(out))
"""


class Tools(NamedTuple):
    """What compiles an op on first use; `nvcc` is its CUDA version. Empty: missing."""

    ninja: str
    compiler: str
    nvcc: str


def tools() -> Tools:
    """The tools of this machine."""
    return Tools(shutil.which("ninja") or "", shutil.which("c++") or shutil.which("g++") or "", _nvcc())


def _nvcc() -> str:
    try:
        said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    release = re.search(r"release (\d+\.\d+)", said)
    return release[1] if release else ""


def probe(python: str = "") -> dict[str, Any] | None:
    """What torch and DeepSpeed say of themselves; None when the process that asks them fails.

    `python`: an interpreter, a venv or a conda environment, started as ranks are. Raises LookupError with the reason
    when it is not here.
    """
    start = [sys.executable, str(ROOT / "docker" / "interpreter.py"), python] if python else [sys.executable]
    if python and (looked := subprocess.run(start, capture_output=True, text=True)).returncode:
        raise LookupError(looked.stderr.strip())
    words = [*start, "-c", _PROBE, *_PACKAGES]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=180)
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None
    return facts


def checks(python: str = "") -> Iterator[Check]:
    """Python, its packages, and every op: of this Python, or of a cluster's."""
    try:
        facts = probe(python)
    except LookupError as error:
        yield Check("python", "python", "missing", str(error))
        return
    if facts:
        yield Check("python", "python", "ok", f"{facts['python']} at {facts['executable']}")
    else:
        yield Check("python", "python", "warning", python or sys.executable)
        hint = "importing it failed; try `python -c 'import torch, deepspeed'`"
        yield Check("python", "torch", "warning", hint)
        return
    have, holds = tools(), contents()
    yield from _packages(facts)
    if facts.get("ops_error"):
        yield Check("ops", "DeepSpeed", "warning", facts["ops_error"])
    for name, op in (facts.get("ops") or {}).items():
        yield Check("ops", name, *verdict(op, facts, have, holds))
    yield Check("ops", "ninja", "ok" if have.ninja else "missing", have.ninja or "compiles ops on first use")
    yield Check(
        "ops", "c++", "ok" if have.compiler else "missing", have.compiler or "compiles ops on first use"
    )
    yield Check(
        "ops", "nvcc", "ok" if have.nvcc else "missing", f"CUDA {have.nvcc}" if have.nvcc else "GPU ops"
    )


def _packages(facts: dict[str, Any]) -> Iterator[Check]:
    for name in _PACKAGES:
        version = facts[name]
        state: State = "ok" if version else "missing"
        yield Check("python", name, state, version or "pip install '.[train]'")
    if not facts.get("torch"):
        return
    if facts.get("torch_error"):
        yield Check("python", "import torch", "warning", facts["torch_error"])
        return
    gpus = facts["gpus"]
    detail = f"{len(gpus)} × {gpus[0]}" if gpus else "none: ranks run on the CPU"
    yield Check("python", "GPUs of torch", "ok" if gpus else "missing", detail)
    built = facts["cuda"]
    yield Check("python", "CUDA of torch", *_cuda(built, machine.driver()))
    if facts["nccl"]:
        yield Check("python", "NCCL of torch", "ok", facts["nccl"])


def _cuda(built: str | None, driver: str) -> tuple[State, str]:
    if not built:
        return "missing", "a CPU build"
    # A driver runs every CUDA of its own major version and of older ones:
    # https://docs.nvidia.com/deploy/cuda-compatibility/
    if driver and int(driver.split(".")[0]) < int(built.split(".")[0]):
        return (
            "warning",
            f"{built}, and the driver supports up to {driver}: update the driver, or use torch for CUDA {driver}",
        )
    return "ok", built


def contents() -> images_facts.Facts | None:
    """What the image holds that this runs in; None outside of one."""
    try:
        return images_facts.parse(IMAGE.read_text(encoding="utf-8"), str(IMAGE))
    except (OSError, SpecError):
        return None


def verdict(
    op: dict[str, Any], facts: dict[str, Any], have: Tools, holds: images_facts.Facts | None
) -> tuple[State, str]:
    """Whether an op is prebuilt, compiled on first use or cannot work here, and why.

    As OpBuilder.load and jit_load decide it: deepspeed/ops/op_builder/builder.py.
    """
    if op["prebuilt"] and facts["built_for"] == facts["accelerator"]:
        lost = _unusable(op, facts, holds)
        return ("missing", f"cannot work here: {lost}") if lost else ("ok", "prebuilt")
    other = ""
    if op["prebuilt"]:
        other = f"prebuilt for {facts['built_for']}, the accelerator here is {facts['accelerator']}; "
    if lacks := _lacks(op, facts, have):
        return "missing", f"{other}cannot work here: {lacks}"
    return "warning", f"{other}compiled on first use, on every host"


def _unusable(op: dict[str, Any], facts: dict[str, Any], holds: images_facts.Facts | None) -> str:
    """Why a prebuilt op cannot be loaded here; empty when it can."""
    here = ".".join(facts["torch"].split(".")[:2])
    if facts["built_with"] != here:
        return f"prebuilt with torch {facts['built_with']}, installed is {here}"
    code = holds.ops.get(op["key"]) if holds else None
    lost = [gpu for gpu in map(tuple, facts.get("capabilities") or []) if code and not code.runs_on(gpu)]
    return f"prebuilt without code for compute capability {lost[0][0]}.{lost[0][1]}" if lost else ""


def _lacks(op: dict[str, Any], facts: dict[str, Any], have: Tools) -> str:
    """Why the op cannot be compiled here; empty when it can."""
    if not op["fits"]:
        return op["why"] or "DeepSpeed gives no reason"
    if op["key"] == "FP_QUANTIZER" and have.nvcc.startswith("13."):
        return str(images_facts.refused()["FP_QUANTIZER"])
    gpu = op["gpu"] and facts["accelerator"] == "cuda"
    missing = [
        name
        for name, there in (
            ("ninja", have.ninja),
            ("a C++ compiler", have.compiler),
            ("nvcc", have.nvcc or not gpu),
        )
        if not there
    ]
    if missing:
        return f"not prebuilt, and to compile it {' and '.join(missing)} {'are' if missing[1:] else 'is'} missing"
    if gpu and facts.get("cuda") and have.nvcc != facts["cuda"]:
        return f"nvcc is of CUDA {have.nvcc}, torch of {facts['cuda']}"
    return ""

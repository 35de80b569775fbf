"""Proves a finished image from the inside, without a GPU, and writes what it holds to /opt/image.json.

Checks that every op is the file that wheel.py looked at and imports, that versions are the ones asked for, that
one step of cpu_adam equals torch's, and that no compiler or remote shell came along. The build stops on a problem.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from imagebuild import check

Facts = dict[str, Any]
COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "nvcc")
# Its file is named py3-none-manylinux1, the WHEEL inside still says cp38; it holds libraries alone, for no Python.
MISLABELLED = re.compile(r"deepspeed-kernels \S+ is not supported on this platform")
UNWANTED = ("sshd", "ssh", "pdsh", "sudo")


def inspect(wheel_facts: Facts, build: check.Build, compiler: bool) -> tuple[Facts, list[str]]:
    """Return the facts of the environment this runs in (image.json) and its problems; imports every op.

    `compiler` says whether a C compiler was asked for.
    """
    import torch

    nccl = (
        ".".join(map(str, torch.cuda.nccl.version()))
        if torch.version.cuda and build.flavour == "cuda"
        else ""
    )
    versions = {
        "torch": torch.__version__,
        "cuda": (torch.version.cuda or "") if build.flavour == "cuda" else "",
        "nccl": nccl,
        "deepspeed": metadata.version("deepspeed"),
    }
    problems = version_problems(versions, build) + file_problems(wheel_facts["ops"], _site_packages())
    problems += extra_problems({tool: shutil.which(tool) for tool in (*COMPILERS, *UNWANTED)}, compiler)
    seconds, failures = load_ops(build)
    problems += failures
    if "CPU_ADAM" in build.ops and not failures:
        problems += step_problems()
    problems += requirement_problems()
    facts = {
        "schema": 1,
        "target": build.target,
        "flavour": build.flavour,
        **versions,
        "python": ".".join(map(str, sys.version_info[:3])),
        "architectures": [word.removesuffix("+PTX") for word in check.split(build.architectures)],
        "ptx": [w.removesuffix("+PTX") for w in check.split(build.architectures) if w.endswith("+PTX")],
        "cpu_level": build.march,
        "simd": build.simd,
        "compiler": compiler,
        "packages": {
            d.name: d.version for d in sorted(metadata.distributions(), key=lambda d: d.name.lower())
        },
        "ops": {
            op: {key: entry[key] for key in ("name", "architectures", "ptx", "bytes")}
            | {"load_seconds": seconds.get(op)}
            for op, entry in wheel_facts["ops"].items()
        },
    }
    return facts, problems


def version_problems(versions: Facts, build: check.Build) -> list[str]:
    """Return the versions that differ from those asked for; a local label such as +cpu does not count."""
    return [
        f"{name} is {versions[name] or '(none)'} in the image, but {asked or '(none)'} was asked for"
        for name, asked in (
            ("torch", build.torch),
            ("cuda", build.cuda),
            ("nccl", build.nccl),
            ("deepspeed", build.deepspeed),
        )
        if versions[name].split("+")[0] != asked
    ]


def file_problems(ops: Facts, site_packages: Path) -> list[str]:
    """Return the ops whose library in the image is not the very file that was looked at in the wheel."""
    mistakes = []
    for op, entry in ops.items():
        file = site_packages / entry["file"]
        if not file.is_file():
            mistakes.append(f"{op}: {file} is missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
            mistakes.append(f"{op}: {file} is not the file of the wheel")
    return mistakes


def extra_problems(tools: dict[str, str | None], compiler: bool) -> list[str]:
    """Return the programs that an image must not hold: remote shells, and compilers unless asked for."""
    unwanted = UNWANTED if compiler else (*UNWANTED, *COMPILERS)
    return [f"{tool} is in the image ({tools[tool]})" for tool in unwanted if tools.get(tool)]


def load_ops(build: check.Build) -> tuple[dict[str, float], list[str]]:
    """Import every op as DeepSpeed does; return seconds per op and the failures (also one that compiles)."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.git_version_info import accelerator_name, installed_ops
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    if get_accelerator()._name != build.flavour or accelerator_name != build.flavour:
        return {}, [
            f"DeepSpeed's accelerator is {get_accelerator()._name}, its ops are for {accelerator_name}"
        ]
    seconds, mistakes = {}, []
    for op in build.ops:
        name = check.catalogue()["ops"][op]["name"]
        if not installed_ops.get(name):
            mistakes.append(f"{op}: not installed")
            continue
        start = time.perf_counter()
        try:
            ALL_OPS[name].load(verbose=False)
        except Exception as error:  # whatever the loader says is the finding
            mistakes.append(f"{op}: can't be imported: {error}")
        seconds[op] = round(time.perf_counter() - start, 4)
    return seconds, mistakes


def step_problems() -> list[str]:
    """Return whether one step of the prebuilt cpu_adam differs from torch's AdamW on the same numbers."""
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 1000, generator=generator)
    mine, theirs = (torch.nn.Parameter(weight.clone()) for _ in range(2))
    options = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    for parameter, optimizer in (
        (mine, DeepSpeedCPUAdam([mine], adamw_mode=True, **options)),
        (theirs, torch.optim.AdamW([theirs], **options)),
    ):
        parameter.grad = gradient.clone()
        optimizer.step()
    difference = float((mine - theirs).detach().abs().max())
    return (
        [f"CPU_ADAM: a step differs from torch's AdamW by {difference:.1e}"] if not difference < 1e-6 else []
    )


def requirement_problems() -> list[str]:
    """Return what `pip check` says: packages that lack a requirement or have a wrong version of it."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    return pip_problems(done.stdout) if done.returncode else []


def pip_problems(text: str) -> list[str]:
    """Return the lines of `pip check` that are problems."""
    return [f"pip check: {line}" for line in text.splitlines() if not MISLABELLED.fullmatch(line)]


def _site_packages() -> Path:
    import deepspeed

    return Path(deepspeed.__file__).parents[1]


def with_libcuda(stubs: Path) -> None:
    """Restart this program with a stand-in for the driver's libcuda.so.1, which AIO and GDS link.

    The driver comes from the GPU host; `stubs` is the toolkit's folder of libraries that export the names alone.
    """
    if not (stubs / "libcuda.so").is_file() or "VERIFY_STUBS" in os.environ:
        return
    folder = Path(tempfile.mkdtemp())
    (folder / "libcuda.so.1").symlink_to(stubs / "libcuda.so")
    path = ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(folder)]))
    os.execve(
        sys.executable,
        [sys.executable, *sys.argv],
        {**os.environ, "LD_LIBRARY_PATH": path, "VERIFY_STUBS": "1"},
    )


def main(argv: list[str] | None = None) -> int:
    """Check the image this runs in against the environment's ARG variables and write its facts; 1 on a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel-facts", type=Path, required=True)
    parser.add_argument("--stubs", type=Path, required=True, help="folder with the toolkit's libcuda.so")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    with_libcuda(args.stubs)
    build = check.read(os.environ)
    facts, problems = inspect(
        json.loads(args.wheel_facts.read_text()), build, os.environ.get("COMPILER", "no") == "yes"
    )
    for problem in problems:
        print(f"verify: {problem}", file=sys.stderr)
    if problems:
        return 1
    args.out.write_text(json.dumps(facts, indent=2) + "\n")
    print(args.out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Looks into a DeepSpeed wheel where the compilers are: are its ops the ones that were asked for?

Per op: is it there, for every architecture, without instructions that the CPU level lacks, without debug
information, compiled with optimisation, recorded for the right accelerator. Returns facts and problems; how the
wheel is compiled is ops.py's, and what the finished image holds is verify.py's.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagebuild import check

if TYPE_CHECKING:
    from collections.abc import Iterable

Facts = dict[str, Any]
# The widest vector registers that code for a level may touch; a wider one is an illegal instruction there.
FORBIDDEN = {"x86-64-v2": ("zmm", "ymm"), "x86-64-v3": ("zmm",), "x86-64-v4": ()}
# AIO is compiled without optimisation on purpose (op_builder/async_io.py: bound by the disk).
UNOPTIMISED = ("csrc/aio/", "csrc/gds/")


# cuobjdump's way to say "nothing found", with exit code 255.
NOTHING = ("does not contain device code", "No PTX file found")


class ToolFailed(Exception):
    """A program that looks into binaries is not on PATH, or could not read one."""


def inspect(wheel: Path, log: str, build: check.Build) -> tuple[Facts, list[str]]:
    """Return the facts of a DeepSpeed wheel (per op: file, sha256, bytes, architectures) and its problems.

    `log` holds the compilers' command lines. Raises ToolFailed without objdump or, for cuda, cuobjdump.
    """
    catalogue = check.catalogue()["ops"]
    ops: Facts = {}
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        root = Path(scratch)
        record = recorded((root / "deepspeed" / "git_version_info_installed.py").read_text())
        problems = record_problems(record, build) + flag_problems(log)
        for op in build.ops:
            entry = catalogue[op]
            file = library(root.rglob("*.so"), entry["name"])
            if file is None:
                problems.append(f"{op}: the wheel holds no library of it")
                continue
            sass, ptx = gpu_code(file) if build.flavour == "cuda" else ([], [])
            ops[op] = {
                "name": entry["name"],
                "file": str(file.relative_to(root)),
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "bytes": file.stat().st_size,
                "architectures": usable(sass, entry.get("architectures")),
                "ptx": ptx,
            }
            if build.flavour == "cuda" and entry.get("gpu"):
                problems += architecture_problems(op, sass, ptx, build.architectures)
            if not entry.get("dispatches"):
                problems += instruction_problems(op, disassembly(file), build.march)
            problems += debug_problems(op, sections(file))
    return {"ops": ops, "record": record}, problems


def recorded(text: str) -> Facts:
    """Return the assignments of DeepSpeed's git_version_info_installed.py: installed_ops, torch_info, …"""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }


def record_problems(record: Facts, build: check.Build) -> list[str]:
    """Return where DeepSpeed's own record of the build differs from the wish."""
    mistakes = []
    if record["accelerator_name"] != build.flavour:
        mistakes.append(
            f"the ops are recorded for the accelerator {record['accelerator_name']}, not {build.flavour}: "
            f"they would be ignored and compiled again (is DS_ACCELERATOR set?)"
        )
    installed = {name for name, built in record["installed_ops"].items() if built}
    names = {check.catalogue()["ops"][op]["name"]: op for op in build.ops}
    mistakes += [f"{names[name]}: DeepSpeed skipped it" for name in sorted(set(names) - installed)]
    mistakes += [f"{name}: compiled, but not asked for" for name in sorted(installed - set(names))]
    of_torch = record["torch_info"]["version"]
    if of_torch != ".".join(build.torch.split(".")[:2]):
        mistakes.append(f"the ops are compiled against torch {of_torch}, not {build.torch}")
    if build.flavour == "cuda" and record["torch_info"]["cuda_version"] != build.cuda:
        mistakes.append(
            f"the ops are compiled for CUDA {record['torch_info']['cuda_version']}, not {build.cuda}"
        )
    return mistakes


def library(files: Iterable[Path], name: str) -> Path | None:
    """Return the shared library of the op `name`: deepspeed/ops/adam/cpu_adam_op.cpython-312-….so and the like."""
    # inference_core_ops lacks a dot upstream and lies at deepspeed/inference/v2/kernelsinference_core_ops.….so
    pattern = re.compile(rf"(kernels)?{re.escape(name)}(_op)?\..*so")
    return next((file for file in sorted(files) if pattern.fullmatch(file.name)), None)


def architecture_problems(op: str, sass: list[str], ptx: list[str], wanted: str) -> list[str]:
    """Return the architectures of `wanted` (as TORCH_CUDA_ARCH_LIST) that are in neither machine code nor PTX."""
    mistakes = []
    for word in check.split(wanted):
        number = word.removesuffix("+PTX")
        if number not in sass:
            mistakes.append(f"{op}: no code for {number}; it has {' '.join(sass) or 'none'}")
        if word.endswith("+PTX") and number not in ptx:
            mistakes.append(
                f"{op}: no PTX for {number}, so newer GPUs can't run it; it has {' '.join(ptx) or 'none'}"
            )
    return mistakes


def usable(sass: list[str], only: list[str] | None) -> list[str]:
    """Return the architectures an op runs on: those compiled, less those its ready-made kernels lack."""
    return [number for number in sass if only is None or number in only]


def instruction_problems(op: str, assembly: str, march: str) -> list[str]:
    """Return whether the disassembled op touches registers that CPUs of the level `march` do not have."""
    return [
        f"{op}: {count} instructions use {register}, which a {march} CPU lacks: it would die with SIGILL there"
        for register in FORBIDDEN[march]
        if (count := len(re.findall(rf"%{register}\d", assembly)))
    ]


def debug_problems(op: str, names: list[str]) -> list[str]:
    """Return whether debug information is in the library: 20 times the size and half again the compile time."""
    return (
        [f"{op}: holds debug information ({name}): a -g came back"]
        if (name := ".debug_info") in names
        else []
    )


def flag_problems(log: str) -> list[str]:
    """Return the compile commands in a build log whose last word is -O0 or -g, or that ask for the host's CPU."""
    mistakes = []
    for line in log.splitlines():
        # ninja prints `[3/4] c++ …`, setuptools the bare command.
        match = re.search(
            r"(?:^|\s)(?:\S*/)?(?:c\+\+|g\+\+|gcc|cc|nvcc|\S*-linux-gnu-g(?:cc|\+\+)) .*\s-c\s", line
        )
        if not match:
            continue
        words = shlex.split(line[match.start() :])
        source = next((word for word in words if word.endswith((".cpp", ".cu", ".cc"))), "?")
        levels = [word for word in words if re.fullmatch(r"-O\w*", word)]
        debug = [word for word in words if re.fullmatch(r"-g[0-3]?", word)]
        if (not levels or levels[-1] == "-O0") and not any(part in source for part in UNOPTIMISED):
            mistakes.append(f"{source}: compiled without optimisation ({' '.join(levels) or 'no -O'})")
        if debug and debug[-1] != "-g0":
            mistakes.append(f"{source}: compiled with debug information ({debug[-1]})")
        if any(word.endswith("=native") for word in words):
            mistakes.append(f"{source}: compiled for the CPU of the build host (native)")
    return mistakes


def gpu_code(file: Path) -> tuple[list[str], list[str]]:
    """Return the architectures (as 8.0) whose machine code and whose PTX a library holds, by cuobjdump."""
    return tuple(  # type: ignore[return-value]
        sorted(
            {
                _dotted(number)
                for number in re.findall(r"\.sm_(\d+)\.(?:cubin|ptx)", _run([_cuobjdump(), flag, file]))
            },
            key=float,
        )
        for flag in ("--list-elf", "--list-ptx")
    )


def _dotted(number: str) -> str:
    return f"{number[:-1]}.{number[-1]}"


def disassembly(file: Path) -> str:
    """Return the machine code of a library as text."""
    return _run(["objdump", "-d", "--no-show-raw-insn", file])


def sections(file: Path) -> list[str]:
    """Return the names of a library's ELF sections."""
    return re.findall(r"^\s*\d+ (\S+)", _run(["objdump", "-h", file]), re.MULTILINE)


def _cuobjdump() -> str:
    # Triton's wheel, a dependency of torch, brings one; NVIDIA's toolkit does too, but PyPI's does not.
    for folder in sys.path:
        tool = Path(folder) / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump"
        if tool.is_file():
            return str(tool)
    return "cuobjdump"


def _run(command: list[str | Path]) -> str:
    if shutil.which(command[0]) is None:
        raise ToolFailed(f"{command[0]} is not on PATH, so the wheel can't be looked into")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and not any(words in done.stdout + done.stderr for words in NOTHING):
        raise ToolFailed(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def main(argv: list[str] | None = None) -> int:
    """Inspect the wheel of a folder that ops.py filled, and write wheel.json beside it; 1 on a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(argv).folder
    (built,) = folder.glob("deepspeed-[0-9]*.whl")
    try:
        facts, problems = inspect(built, (folder / "build.log").read_text(), check.read(os.environ))
    except ToolFailed as error:
        facts, problems = {}, [str(error)]
    for problem in problems:
        print(f"wheel: {problem}", file=sys.stderr)
    (folder / "wheel.json").write_text(json.dumps(facts, indent=2) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

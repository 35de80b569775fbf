"""Compiles DeepSpeed's chosen ops into one wheel, the same way in an image build and for a bare-metal cluster.

Owns the compilers' environment and the order of steps: hold versions together, fetch the locked source, patch
it, compile. What may be asked for is check.py's; whether the wheel came out right is wheel.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from imagebuild import check, patch


class BuildError(Exception):
    """The wheel can't be built; the message says why and what to do."""


def environment(build: check.Build, site_packages: Path) -> dict[str, str]:
    """Return the variables that DeepSpeed's setup.py reads, each a trap of its own when left out.

    DS_ACCELERATOR: without a GPU in the builder DeepSpeed would compile CPU ops and record them as such.
    TORCH_CUDA_ARCH_LIST: its default is not valid for CUDA 13. CFLAGS: Debian's Python compiles extensions with
    -g -O2, and a bare -g0 would lose the -O2. CPATH: nccl.h, which DeepCompile includes, comes with torch.
    """
    variables = {
        "DS_ACCELERATOR": build.flavour,
        "DS_BUILD_OPS": "0",
        "DS_ENABLE_NINJA": "1",
        "DS_NVCC_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "MAX_JOBS": build.jobs,
        "CFLAGS": "-O2 -g0 -DNDEBUG",
        "CPATH": str(site_packages / "nvidia" / "nccl" / "include"),
        **{f"DS_BUILD_{op}": "1" for op in build.ops},
    }
    if build.flavour == "cuda":
        variables["TORCH_CUDA_ARCH_LIST"] = build.architectures
    return variables


def hold_together(build: check.Build, torch: str, torch_cuda: str | None, nvcc: str) -> list[str]:
    """Return where torch, its CUDA version and nvcc (its -V text) are not the ones asked for."""
    mistakes = []
    if torch.split("+")[0] != build.torch:
        mistakes.append(f"torch is {torch}, TORCH_VERSION is {build.torch}")
    if build.flavour == "cpu":
        return mistakes
    if torch_cuda != build.cuda:
        mistakes.append(f"torch is built for CUDA {torch_cuda or '(none)'}, TORCH_CUDA is {build.cuda}")
    match = re.search(r"release (\d+\.\d+)", nvcc)
    if not match or match[1] != build.cuda:
        mistakes.append(
            f"nvcc is {match[1] if match else 'missing'}, TORCH_CUDA is {build.cuda}: another BASE_IMAGE?"
        )
    return mistakes


def fetch(lock: Path, folder: Path) -> Path:
    """Download the DeepSpeed source that `lock` pins by hash into `folder` and return its unpacked tree."""
    # setup.py runs for its metadata; --no-build-isolation lets it see the torch that is already here.
    flags = [
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        "deepspeed",
        "--require-hashes",
        "-r",
        str(lock),
    ]
    _pip(["download", "-q", "-d", str(folder), *flags], {**os.environ, "DS_BUILD_OPS": "0"})
    (archive,) = folder.glob("deepspeed-*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def compile_wheel(
    source: Path, variables: dict[str, str], out: Path
) -> tuple[str, dict[str, tuple[float, float]]]:
    """Build the wheel of `source` into `out`, with the compilers' lines in build.log.

    Returns those lines, and what each extension took: wall seconds, processor seconds. Raises BuildError.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-v",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    log = out / "build.log"
    marks: list[tuple[str, float, float]] = []
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=source,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            # Of the thousands of lines of setuptools, those that show how far it is.
            if match := re.search(r"building '(.+)' extension|installing to build", line):
                marks.append((match[1] or "", time.monotonic(), processor_seconds(process.pid)))
                print(f"compiling {match[1]}" if match[1] else "compiled", flush=True)
    if process.wait():
        errors = [
            line for line in log.read_text().splitlines() if re.search(r"\berror\b", line, re.IGNORECASE)
        ]
        tail = log.read_text().splitlines()[-20:]
        raise BuildError("\n".join(["compiling DeepSpeed's ops failed:", *errors[:20], "…", *tail]))
    return log.read_text(), spent(marks)


def spent(marks: list[tuple[str, float, float]]) -> dict[str, tuple[float, float]]:
    """Return per extension the wall and processor seconds between its mark (name, wall, processor) and the next."""
    return {
        name: (round(later[1] - wall, 1), round(later[2] - processor, 1))
        for (name, wall, processor), later in itertools.pairwise(marks)
        if name
    }


def processor_seconds(pid: int) -> float:
    """Return what a process and all below it have used; 0 when it has ended."""
    import psutil  # type: ignore[import-untyped]

    spent_so_far = 0.0
    # A compiler may end between being listed and being read: its time is then in its parent's children_user.
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in (*top.children(recursive=True), top):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                spent_so_far += times.user + times.children_user
    return spent_so_far


def _pip(arguments: list[str], variables: dict[str, str]) -> None:
    if subprocess.run([sys.executable, "-m", "pip", *arguments], env=variables, check=False).returncode:
        raise BuildError(f"pip {arguments[0]} failed; its words are above")


def _nvcc() -> str:
    try:
        return subprocess.run(["nvcc", "-V"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def run(build: check.Build, requirements: Path, out: Path) -> None:
    """Build the wheel into `out`, with build.log and seconds.json (what each op took) beside it. Raises BuildError."""
    import torch

    mistakes = hold_together(build, torch.__version__, torch.version.cuda, _nvcc())
    if mistakes:
        raise BuildError("\n".join(mistakes))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = fetch(requirements / "deepspeed.txt", Path(scratch))
        if patch.main(["--march", build.march, "--simd", build.simd, str(source / "op_builder")]):
            raise BuildError("DeepSpeed's op builders could not be patched")
        log, seconds = compile_wheel(source, environment(build, Path(torch.__file__).parents[1]), out)
    (out / "build.log").write_text(log)
    (out / "seconds.json").write_text(json.dumps(seconds, indent=2) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Build the wheel that the environment's ARG variables describe; return 1 with the reasons when it can't be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requirements", type=Path, default=check.HERE / "requirements")
    parser.add_argument("--out", type=Path, required=True, help="folder for the wheel")
    args = parser.parse_args(argv)
    try:
        run(check.read(os.environ), args.requirements, args.out)
    except BuildError as error:
        print(f"ops: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

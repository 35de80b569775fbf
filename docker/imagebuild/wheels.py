"""`make wheels`: DeepSpeed with its ops compiled for the cards at hand, and every other wheel, for installing offline.

For clusters without containers or without internet: run it on a machine like theirs that has a compiler (and, for
cuda, the toolkit), copy the folder, and install with the command it prints. How ops are compiled is ops.py's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from imagebuild import build, check

# Everything newer than the newest card here runs the PTX of that one.
QUERY = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]


class WheelsError(Exception):
    """The wheels can't be made; the message has one line per reason."""


def architectures(capabilities: str) -> str:
    """Return the TORCH_CUDA_ARCH_LIST for what nvidia-smi prints (one compute capability a line, per card).

    Several kinds of card give several architectures; the newest carries PTX as well.
    """
    kinds = sorted({line.strip() for line in capabilities.splitlines() if line.strip()}, key=float)
    return ";".join(kinds) + "+PTX" if kinds else ""


def cards() -> str:
    """Return the architectures of the GPUs of this machine, empty when there is none or no driver."""
    try:
        return architectures(subprocess.run(QUERY, capture_output=True, text=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return ""


def wanted(settings: dict[str, str], installed: str) -> check.Build:
    """Return the build of `settings`, for the cards that are `installed` unless TORCH_CUDA_ARCH_LIST says otherwise.

    Raises WheelsError with everything that is wrong.
    """
    target, flavour = settings.get("TARGET") or "train", settings.get("FLAVOUR") or "cuda"
    if flavour == "cuda" and not settings.get("TORCH_CUDA_ARCH_LIST"):
        if not installed:
            raise WheelsError(
                "nvidia-smi finds no GPU here: name the cards of the cluster, for example "
                "TORCH_CUDA_ARCH_LIST='8.0;9.0+PTX', or FLAVOUR=cpu"
            )
        settings = {**settings, "TORCH_CUDA_ARCH_LIST": installed}
    request = check.make(target, flavour, settings)
    problems = check.problems(request) + [
        f"{tool} is not on PATH: install {package}"
        for tool, package in (
            ("g++", "g++"),
            *((("nvcc", f"CUDA {request.cuda}'s toolkit"),) if flavour == "cuda" else ()),
        )
        if not shutil.which(tool)
    ]
    if problems:
        raise WheelsError("\n".join(problems))
    return check.normalised(request)


def collect(request: check.Build, out: Path) -> str:
    """Fill `out` with every wheel of `request` and return the command that installs them without a network."""
    environment = out / ".venv"
    python = str(environment / "bin" / "python")
    requirements = check.HERE / "requirements"
    lock = check.lock(request.target, request.flavour)
    locks = [lock, requirements / "torch-cpu.txt"]
    venv.create(environment, with_pip=True, clear=True)
    install = [python, "-m", "pip", "install", "-q", "--require-hashes"]
    _run([*install, "-r", str(requirements / "build.txt")])
    if request.flavour == "cpu":
        # Where pip's own settings name a place that has it; else the lock's torch, with CUDA, does as well.
        subprocess.run([*install, "--no-deps", "-r", str(locks[1])], stderr=subprocess.DEVNULL, check=False)
    _run([*install, "-c", str(locks[0]), "-r", str(lock.with_suffix(".in"))])
    frozen = out / "requirements.txt"
    frozen.write_text(_frozen(python))
    _run(
        [
            python,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            str(out),
            "-r",
            str(frozen),
        ]
    )
    strangers = unlocked(out, "".join(lock.read_text() for lock in (*locks, requirements / "build.txt")))
    if strangers:
        raise WheelsError(f"not the files that the lock names: {', '.join(strangers)}")
    variables = {**os.environ, **check.arguments(request), "PYTHONPATH": str(check.HERE)}
    variables["PATH"] = f"{environment / 'bin'}:{os.environ['PATH']}"
    _run([python, "-m", "imagebuild.ops", "--out", str(out)], variables)
    _run([python, "-m", "imagebuild.wheel", str(out)], variables)
    (wheel,) = out.glob("deepspeed-[0-9]*.whl")
    with frozen.open("a") as file:
        file.write(f"./{wheel.name}\n")
    shutil.rmtree(environment)
    return f"cd {out} && pip install --no-index --find-links . -r requirements.txt"


def unlocked(folder: Path, locks: str) -> list[str]:
    """Return the wheels of `folder` whose sha256 is in no lock."""
    return [
        wheel.name
        for wheel in sorted(folder.glob("*.whl"))
        if hashlib.sha256(wheel.read_bytes()).hexdigest() not in locks
    ]


def _frozen(python: str) -> str:
    done = subprocess.run(
        [python, "-m", "pip", "freeze", "--all"], capture_output=True, text=True, check=True
    )
    return "".join(
        line + "\n" for line in done.stdout.splitlines() if not line.startswith(("pip==", "wheel=="))
    )


def _run(command: list[str], variables: dict[str, str] | None = None) -> None:
    if subprocess.run(command, env=variables, stdout=sys.stderr, check=False).returncode:
        raise WheelsError(f"{' '.join(command[1:4])} failed; its words are above")


def main() -> int:
    """Make the wheels that the environment's variables describe; print how to install them; 2 when it can't be."""
    try:
        request = wanted(dict(os.environ), cards())
        out = Path(os.environ.get("OUT") or "dist").resolve() / f"wheels-{request.target}-{request.flavour}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        print(collect(request, out))
    except (WheelsError, build.BuildRefused) as error:
        for line in str(error).splitlines():
            print(f"wheels: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

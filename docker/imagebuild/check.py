"""What an image build is asked for, checked in the first second: ops, architectures, versions, engine, disk.

Reads the Dockerfile's defaults, ops.json and the lock files; it builds nothing (build.py does) and needs only
Python's standard library, so the same checks run on the host and again inside the build.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parents[1]
TARGETS = ("train", "inference")
FLAVOURS = ("cuda", "cpu")

# What both `nvcc --list-gpu-code` of CUDA 13.2 and torch's cpp_extension know. CUDA 13 dropped all below 7.5:
# https://docs.nvidia.com/cuda/archive/13.0.0/cuda-toolkit-release-notes/
ARCHITECTURES = {"13.2": ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1"]}
# The psABI levels (https://gitlab.com/x86-psABIs/x86-64-ABI), and the widest SIMD path of DeepSpeed each can run.
MARCHES = {
    "x86-64-v2": ("SCALAR",),
    "x86-64-v3": ("SCALAR", "AVX256"),
    "x86-64-v4": ("SCALAR", "AVX256", "AVX512"),
}
# Free disk that a build needs at its peak, measured (README.md), in GB.
DISK_GB = {"cuda": 25, "cpu": 8}


@dataclass(frozen=True)
class Build:
    """One wish: which image, of which versions, for which machines."""

    target: str
    flavour: str
    ops: tuple[str, ...]
    architectures: str
    torch: str
    cuda: str
    nccl: str
    deepspeed: str
    march: str
    simd: str
    base_image: str
    runtime_image: str
    jobs: str


def catalogue(folder: Path = HERE) -> dict[str, Any]:
    """Return ops.json: `lists`, `ops` and `refused`."""
    result: dict[str, Any] = json.loads((folder / "ops.json").read_text())
    return result


def defaults(folder: Path = HERE) -> dict[str, str]:
    """Return each ARG of the Dockerfile with its default: the one place where versions of the cuda flavour stand."""
    pairs = re.findall(r'^ARG (\w+)=(?:"([^"]*)"|(\S*))', (folder / "Dockerfile").read_text(), re.MULTILINE)
    return {name: quoted or bare for name, quoted, bare in reversed(pairs)}


def pins(lock: Path) -> dict[str, str]:
    """Return name → version of a lock file; of a package with several (by Python version) the first."""
    locked = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", lock.read_text(), re.MULTILINE)
    return dict(reversed(locked))


def lock(target: str, flavour: str, folder: Path = HERE) -> Path:
    """Return the lock file of a target and flavour: each has its own torch."""
    return folder / "requirements" / f"{target}-{flavour}.txt"


def split(text: str) -> tuple[str, ...]:
    """Return the words of a list whose items are separated by spaces, commas or semicolons."""
    return tuple(word for word in re.split(r"[\s,;]+", text) if word)


def make(target: str, flavour: str, settings: Mapping[str, str], folder: Path = HERE) -> Build:
    """Return the build of `target` and `flavour`: the Dockerfile's defaults under `settings` (ARG name → value).

    An empty setting counts as not given. A cpu build has neither CUDA architectures nor CUDA, NCCL versions, and the
    torch of which there is a CPU build.
    """
    values = {**defaults(folder), **{name: value for name, value in settings.items() if value}}
    if flavour == "cpu":
        values |= {"TORCH_CUDA_ARCH_LIST": "", "TORCH_CUDA": "", "TORCH_NCCL": ""}
        held = pins(folder / "requirements" / "torch-cpu.txt")["torch"]
        values["TORCH_VERSION"] = settings.get("TORCH_VERSION") or held
        for name in ("BASE_IMAGE", "RUNTIME_IMAGE"):
            values[name] = settings.get(name) or "ubuntu:noble-20251001"
    listed = " ".join(catalogue(folder)["lists"].get(f"{target}-{flavour}", []))
    return read({**values, "TARGET": target, "FLAVOUR": flavour, "DS_OPS": settings.get("DS_OPS") or listed})


def read(values: Mapping[str, str]) -> Build:
    """Return the build that ARG values (or, inside the build, environment variables) describe.

    Raises KeyError when one is missing; the base images, which a build can't see, may be.
    """
    return Build(
        target=values["TARGET"],
        flavour=values["FLAVOUR"],
        ops=split(values["DS_OPS"]),
        architectures=";".join(split(values["TORCH_CUDA_ARCH_LIST"])),
        torch=values["TORCH_VERSION"],
        cuda=values["TORCH_CUDA"],
        nccl=values["TORCH_NCCL"],
        deepspeed=values["DEEPSPEED_VERSION"],
        march=values["CPU_MARCH"],
        simd=values["CPU_SIMD"],
        base_image=values.get("BASE_IMAGE", ""),
        runtime_image=values.get("RUNTIME_IMAGE", ""),
        jobs=values["MAX_JOBS"],
    )


def arguments(build: Build) -> dict[str, str]:
    """Return the Dockerfile's ARGs of a build, name → value."""
    return {
        "TARGET": build.target,
        "FLAVOUR": build.flavour,
        "DS_OPS": " ".join(build.ops),
        "TORCH_CUDA_ARCH_LIST": build.architectures,
        "TORCH_VERSION": build.torch,
        "TORCH_CUDA": build.cuda,
        "TORCH_NCCL": build.nccl,
        "DEEPSPEED_VERSION": build.deepspeed,
        "CPU_MARCH": build.march,
        "CPU_SIMD": build.simd,
        "BASE_IMAGE": build.base_image,
        "RUNTIME_IMAGE": build.runtime_image,
        "MAX_JOBS": build.jobs,
    }


def problems(build: Build, folder: Path = HERE) -> list[str]:
    """Return everything that is wrong with a build, each with what to do; empty when it can start."""
    mistakes = [_one_of("TARGET", build.target, TARGETS), _one_of("FLAVOUR", build.flavour, FLAVOURS)]
    mistakes = [problem for problem in mistakes if problem]
    if mistakes:
        return mistakes
    return [
        *_ops(build, folder),
        *(_architectures(build) if build.flavour == "cuda" else []),
        *_versions(build, folder),
        *_processor(build),
    ]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value in allowed:
        return ""
    return f"{name}={value}: {name} is {' or '.join(allowed)}{_did_you_mean(value, allowed)}"


def _did_you_mean(word: str, known: tuple[str, ...] | list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _ops(build: Build, folder: Path) -> list[str]:
    data = catalogue(folder)
    if not build.ops:
        return [
            f"DS_OPS is empty: name at least one op, or leave it out for the {build.target} list of ops.json"
        ]
    mistakes = []
    file = lock(build.target, build.flavour, folder)
    packages = pins(file)
    for op in build.ops:
        if op in data["refused"]:
            mistakes.append(f"DS_OPS: {op} can't be built: {data['refused'][op]}")
        elif op not in data["ops"]:
            mistakes.append(
                f"DS_OPS: there is no op {op}{_did_you_mean(op.upper(), list(data['ops']))} (ops.json lists all)"
            )
        elif build.flavour not in data["ops"][op]["flavours"]:
            mistakes.append(
                f"DS_OPS: {op} exists for {', '.join(data['ops'][op]['flavours'])} only, not for {build.flavour}"
            )
        else:
            mistakes += [
                f"DS_OPS: {op} needs the package {name}, which requirements/{file.name} lacks: "
                f"it belongs to another target"
                for name in data["ops"][op].get("packages", [])
                if name not in packages
            ]
    mistakes += [f"DS_OPS: {op} is named twice" for op in sorted(set(build.ops)) if build.ops.count(op) > 1]
    if {"AIO", "GDS"} & set(build.ops) and "PIN_MEMORY" not in build.ops:
        mistakes.append("DS_OPS: AIO and GDS load PIN_MEMORY first: add PIN_MEMORY")
    return mistakes


def _architectures(build: Build) -> list[str]:
    name = "TORCH_CUDA_ARCH_LIST"
    words = split(build.architectures)
    if not words:
        return [
            f"{name} is empty: DeepSpeed's own default (6.0, 6.1, 7.0) is not valid for CUDA {build.cuda}"
        ]
    known = ARCHITECTURES.get(build.cuda)
    mistakes = []
    for word in words:
        match = re.fullmatch(r"(\d+\.\d)(a?)(\+PTX)?", word)
        if not match:
            mistakes.append(f"{name}: {word} is not a compute capability; write them as 8.0;9.0+PTX")
        elif match[2]:
            mistakes.append(f"{name}: DeepSpeed {build.deepspeed} can't prebuild {word}; write {match[1]}")
        elif known and match[1] not in known:
            mistakes.append(
                f"{name}: CUDA {build.cuda} has no architecture {match[1]}; it has {' '.join(known)}"
            )
    if len({word.removesuffix("+PTX") for word in words}) < len(words):
        mistakes.append(f"{name}: an architecture is named twice in {build.architectures}")
    return mistakes


def _versions(build: Build, folder: Path) -> list[str]:
    file = lock(build.target, build.flavour, folder)
    mistakes = [
        f"{name}={asked}, but requirements/{where.name} locks {package} {held}: "
        f"run `make lock {flavour}{name}={asked}`, or leave {name} out"
        for name, asked, package, where, flavour in (
            ("TORCH_VERSION", build.torch, "torch", file, f"FLAVOUR={build.flavour} "),
            ("DEEPSPEED_VERSION", build.deepspeed, "deepspeed", file.with_name("deepspeed.txt"), ""),
        )
        if asked != (held := pins(where).get(package))
    ]
    if build.flavour == "cpu":
        return mistakes
    locked = pins(file)
    of_torch = ".".join(locked.get("cuda-toolkit", "").split(".")[:2])
    if of_torch and build.cuda != of_torch:
        mistakes.append(
            f"TORCH_CUDA={build.cuda}, but torch {locked.get('torch')} is built for CUDA {of_torch}, and DeepSpeed "
            f"accepts no other minor version: choose base images with CUDA {of_torch}, or a torch for CUDA {build.cuda}"
        )
    if build.nccl != locked.get("nvidia-nccl-cu13"):
        mistakes.append(
            f"TORCH_NCCL={build.nccl}, but torch brings NCCL {locked.get('nvidia-nccl-cu13')}: leave it out"
        )
    for name, image in (("BASE_IMAGE", build.base_image), ("RUNTIME_IMAGE", build.runtime_image)):
        match = re.search(r"cuda:(\d+\.\d+)", image)
        if match and match[1] != build.cuda:
            mistakes.append(
                f"{name}={image} is CUDA {match[1]}, but TORCH_CUDA is {build.cuda}: they must agree"
            )
    return mistakes


def _processor(build: Build) -> list[str]:
    if build.march not in MARCHES:
        return [_one_of("CPU_MARCH", build.march, tuple(MARCHES))]
    if build.simd not in MARCHES[build.march]:
        return [f"CPU_SIMD={build.simd}: {build.march} runs {' or '.join(MARCHES[build.march])}"]
    if not re.fullmatch(r"[1-9]\d*", build.jobs):
        return [
            f"MAX_JOBS={build.jobs}: the number of compilers to run at once, 1 or more (about 2 GB of memory each)"
        ]
    return []


def disk_problem(flavour: str, free_gb: float, where: str) -> str:
    """Return what is wrong with `free_gb` GB free at `where` (the engine's storage) for a build; empty if enough."""
    needed = DISK_GB[flavour]
    if free_gb >= needed:
        return ""
    return (
        f"{where} has {free_gb:.1f} GB free and a {flavour} build needs {needed} GB: "
        f"remove images (`make image-clean`), or point the engine's storage elsewhere"
    )


def normalised(build: Build) -> Build:
    """Return the build with its ops in the order of ops.json, so that the same wish gives the same layers."""
    order = list(catalogue()["ops"])
    return replace(build, ops=tuple(sorted(build.ops, key=lambda op: order.index(op) if op in order else -1)))

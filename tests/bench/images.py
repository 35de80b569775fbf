"""What prebuilt ops are worth: the first optimizer step with and without them, and what images weigh and take to build.

    PYTHONPATH=docker python -m tests.bench.images [--json]            with the image that `make image` left here
    PYTHONPATH=docker python -m tests.bench.images --build [--json]    with images of its own

Without --build it takes what docker or podman has, and says so when that is nothing. With it the cpu flavour is built
twice in the tests' own storage, without a compiler and with one. Both steps are measured in one image that has a
compiler (COMPILER=yes), each in a fresh container, so with cold caches, alternating.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imagebuild import build, check

from tests.real.image import engines

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 3
STEP = """
import sys, time
import torch
from deepspeed import git_version_info
from deepspeed.ops.adam import DeepSpeedCPUAdam
if sys.argv[1] == "jit":
    git_version_info.installed_ops["cpu_adam"] = False
parameter = torch.nn.Parameter(torch.ones(1000))
parameter.grad = torch.ones(1000)
start = time.perf_counter()
DeepSpeedCPUAdam([parameter]).step()
print(time.perf_counter() - start)
"""


def first_steps(python: Callable[..., str], compiler: bool) -> dict[str, float]:
    """Return the seconds of the first cpu_adam step, medians of ROUNDS; `python` runs one in a fresh container.

    Compiling is measured where there is a compiler.
    """
    steps: dict[str, list[float]] = {"prebuilt": [], **({"jit": []} if compiler else {})}
    for _ in range(ROUNDS):
        for how, seconds in steps.items():
            seconds.append(float(python("-c", STEP, how).split()[-1]))
    medians = {how: statistics.median(seconds) for how, seconds in steps.items()}
    found = {f"first_step_{how}_seconds": seconds for how, seconds in medians.items()}
    return {**found, **({"first_step_ratio": medians["jit"] / medians["prebuilt"]} if compiler else {})}


def left_here() -> tuple[str, str] | None:
    """Return the engine and the name of the image of this revision that is there, None when there is none."""
    for engine in ("docker", "podman"):
        for flavour in check.FLAVOURS if shutil.which(engine) else ():
            name = build.name("train", flavour, build.revision())
            asked = [engine, "image", "inspect", name]
            if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
                return engine, name
    return None


def measure_left(engine: str, name: str) -> dict[str, float]:
    """Return the figures of an image that is there already."""

    def inside(*words: str) -> str:
        command = [engine, "run", "--rm", name, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    size = subprocess.run(
        [engine, "image", "inspect", "--format", "{{.Size}}", name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    facts = json.loads(inside("cat", "/opt/image.json"))
    if not facts["compiler"]:
        print(f"{name} has no compiler (COMPILER=yes), so compiling is not measured", file=sys.stderr)
    steps = first_steps(lambda *words: inside("python", *words), facts["compiler"])
    return {"image_mb": float(size) / 1e6, **steps}


def size_mb(image: engines.Image) -> float:
    return (
        float(image.engine.run("podman", "image", "inspect", "--format", "{{.Size}}", image.name).stdout)
        / 1e6
    )


def rebuild(image: engines.Image) -> float:
    """Return the seconds that `make image` takes after a change in one workload."""
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        done = engines.rebuild_changed(image, Path(scratch))
        seconds = time.monotonic() - started
        done.check_returncode()
        image.engine.run("buildah", "rmi", done.stdout.strip())
        return seconds


def measure() -> dict[str, float]:
    """Return every figure by name; seconds are medians of ROUNDS where a round is cheap."""
    engine = engines.install()
    plain = engines.make_image(engine, FLAVOUR="cpu")
    weights = {"image_mb": size_mb(plain), "rebuild_after_workload_seconds": rebuild(plain)}
    # The same name: it takes the plain image's place.
    with_compiler = engines.make_image(engine, FLAVOUR="cpu", COMPILER="yes", REBUILD="yes")
    steps = first_steps(
        lambda *words: with_compiler.run(with_compiler.name, "python", *words, timeout=1200).stdout, True
    )
    return {
        **weights,
        "build_seconds": plain.seconds,
        "image_with_compiler_mb": size_mb(with_compiler),
        **steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build", action="store_true", help="build the images first, as root")
    args = parser.parse_args()
    there = None if args.build else left_here()
    if not there and not args.build:
        print(
            f"images: not measured, {build.name('train', 'cpu', build.revision())} is not here "
            "(make image FLAVOUR=cpu COMPILER=yes)",
            file=sys.stderr,
        )
        return
    figures = measure_left(*there) if there else measure()
    print(
        json.dumps(figures, indent=2)
        if args.json
        else "\n".join(f"{k:34s} {v:10.3f}" for k, v in figures.items())
    )


if __name__ == "__main__":
    main()

"""What prebuilt ops are worth: the first optimizer step with them and without, and what images weigh and take to build.

    PYTHONPATH=docker python -m tests.images.bench [--json]

Builds the cpu flavour twice, without a compiler and with one (COMPILER=yes), in the tests' own storage. Both steps are
measured in the image with the compiler, each in a fresh container, so with cold caches, alternating.
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

from imagebuild import check

from tests.images import engines

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


def first_step(image: engines.Image, how: str) -> float:
    """Return the seconds of the first cpu_adam step in a fresh container: `how` is prebuilt or jit."""
    done = image.run(image.name, "python", "-c", STEP, how, timeout=1200)
    return float(done.stdout.split()[-1])


def size_mb(image: engines.Image) -> float:
    return (
        float(image.engine.run("podman", "image", "inspect", "--format", "{{.Size}}", image.name).stdout)
        / 1e6
    )


def rebuild(image: engines.Image) -> float:
    """Return the seconds that `make image` takes after a change in one workload."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "docker"
        shutil.copytree(check.HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        with (copy / "workloads" / "pretrain.py").open("a") as file:
            file.write("\n# changed\n")
        env = {
            **image.engine.env,
            "PYTHONPATH": str(copy),
            "FLAVOUR": "cpu",
            "BASE_IMAGE": "local",
            "ENGINE": "buildah",
        }
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "imagebuild.build"],
            cwd=scratch,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds = time.monotonic() - started
        image.engine.run("buildah", "rmi", done.stdout.strip())
        return seconds


def measure() -> dict[str, float]:
    """Return every figure by name; seconds are medians of ROUNDS where a round is cheap."""
    engine = engines.install()
    plain = engines.make_image(engine, FLAVOUR="cpu")
    weights = {"image_mb": size_mb(plain), "rebuild_after_workload_seconds": rebuild(plain)}
    # The same name: it takes the plain image's place.
    with_compiler = engines.make_image(engine, FLAVOUR="cpu", COMPILER="yes", REBUILD="yes")
    steps: dict[str, list[float]] = {"prebuilt": [], "jit": []}
    for _ in range(ROUNDS):
        for how, seconds in steps.items():
            seconds.append(first_step(with_compiler, how))
    prebuilt, jit = (statistics.median(steps[how]) for how in ("prebuilt", "jit"))
    return {
        **weights,
        "build_seconds": plain.seconds,
        "image_with_compiler_mb": size_mb(with_compiler),
        "first_step_prebuilt_seconds": prebuilt,
        "first_step_jit_seconds": jit,
        "first_step_ratio": jit / prebuilt,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    figures = measure()
    print(
        json.dumps(figures, indent=2)
        if args.json
        else "\n".join(f"{k:34s} {v:10.3f}" for k, v in figures.items())
    )


if __name__ == "__main__":
    main()

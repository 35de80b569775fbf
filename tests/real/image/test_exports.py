"""The image in the forms that HPC runtimes take, made and run for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.real.image.engines import Image

# One worker for all of them: they share one build.
pytestmark = pytest.mark.image

CODE = (
    "import deepspeed, os, workloads; print(os.environ['DS_ACCELERATOR'], deepspeed.__version__, os.getuid())"
)


def export(image: Image, verb: str, out: Path) -> Path:
    env = {**image.engine.env, "ENGINE": "buildah", "IMAGE": image.name, "OUT": str(out)}
    done = subprocess.run(
        [sys.executable, "-m", "imagebuild.export", verb],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_a_squashfs_file_runs_in_charliecloud(cpu_image: Image, tmp_path: Path) -> None:
    file = export(cpu_image, "sqsh", tmp_path)
    assert file.name == f"{cpu_image.name.replace(':', '-')}.sqsh"
    listing = cpu_image.engine.run("unsquashfs", "-l", str(file)).stdout
    # enroot's environment and entry, charliecloud's environment.
    for path in ("/etc/environment", "/etc/rc", "/ch/environment", "/opt/image.json"):
        assert f"squashfs-root{path}\n" in listing
    # charliecloud insists on a user's name, which a service does not have.
    cpu_image.engine.env.setdefault("USER", "root")
    done = cpu_image.engine.run("ch-run", "--set-env", str(file), "--", "python", "-c", CODE)
    assert done.stdout.split()[-3:-1] == ["cpu", "0.19.8"]


def test_a_bundle_runs_in_an_oci_runtime(cpu_image: Image, tmp_path: Path) -> None:
    folder = export(cpu_image, "bundle", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["process"]["args"] = ["python", "-c", CODE]
    (folder / "config.json").write_text(json.dumps(config))
    done = cpu_image.engine.run("runc", "run", "--bundle", str(folder), f"deepspeed-job-{os.getpid()}")
    assert done.stdout.split()[-3:] == ["cpu", "0.19.8", "0"]

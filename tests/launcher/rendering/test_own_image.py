"""How an image that is not ours is known, and what its shell says of its Python, run by this machine's /bin/sh."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from launcher import ROOT, schedulers
from launcher.images.facts import Facts
from launcher.rendering import own_image
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path

FACTS = Facts("here", "cuda", "13.0", {}, "x86-64-v3", False, "")


@pytest.mark.parametrize(
    ("fields", "python"),
    [
        ({}, ""),
        ({"image": "registry.example.com/mine"}, "python3"),
        ({"image": "registry.example.com/deepspeed-train"}, ""),
        ({"image": "registry.example.com/deepspeed-train:1"}, ""),
        ({"image": "nvcr.io/nvidia/pytorch:25.09-py3"}, "python3"),
        ({"image": "python:3.12", "image_python": "/usr/local/bin/python3.12"}, "/usr/local/bin/python3.12"),
        ({"image_python": "python3"}, "python3"),
    ],
)
def test_which_python(fields: dict[str, Any], python: str) -> None:
    assert own_image.python(samples.decided(**fields)) == python


def test_an_image_with_facts_of_ours_is_ours() -> None:
    plan = samples.decided(image="registry.example.com/renamed:1")
    assert own_image.python(plan) == "python3"
    assert own_image.python(plan._replace(image_facts=FACTS)) == ""


@pytest.mark.parametrize("runtime", ["pyxis", "apptainer", "oci", "charliecloud"])
def test_slurm_mounts_the_programs_and_starts_the_images_python(runtime: str) -> None:
    image = "/images/pytorch" if runtime in {"oci", "charliecloud"} else "/images/pytorch.sif"
    plan = samples.decided(image=image, slurm={"container": runtime}, fabric="tcp")
    script = schedulers.load("slurm").render(plan)["job.sh"]
    assert f"{plan.folder}/programs" in script
    assert "/opt/launcher/node.py" in script
    assert "/opt/venv/bin/python " not in script
    assert '[ -d "$run"/programs ] || {' in script


def started(*words: str, python: str) -> subprocess.CompletedProcess[str]:
    plan = samples.decided(image="python:3.12", image_python=python)
    return subprocess.run([*own_image.start(plan), *words], capture_output=True, text=True, timeout=60)


def test_a_python_that_will_do_runs_the_program() -> None:
    done = started("-c", "import sys; print(sys.argv[1:])", "a b", "$c", python=sys.executable)
    assert (done.stdout, done.returncode) == ("['a b', '$c']\n", 0)


def test_no_python() -> None:
    done = started("node.py", python="python9")
    assert done.returncode == 64
    said = "node: error: the image has no python9; image_python in the cluster file names its Python\n"
    assert done.stderr == said


def test_the_outcome_is_that_of_the_first_host(tmp_path: Path) -> None:
    words = ("node.py", "--folder", str(tmp_path), "--attempt", "7-0", "--", "--folder", "/nonexistent")
    assert started(*words, python="python9").returncode == 64
    line = (tmp_path / "outcome-7-0").read_text()
    assert re.fullmatch(r"64 -1 \S+ [0-9]+\n", line)
    assert started(*words, python="python9").returncode == 64
    assert (tmp_path / "outcome-7-0").read_text() == line


def test_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "it's python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit\nexit 1\n')
    old.chmod(0o755)
    done = started("node.py", python=str(old))
    assert done.returncode == 64
    assert (
        done.stderr
        == f"node: error: {old} of the image is Python 3.9.2, and the node entry needs 3.10 or newer\n"
    )


def test_what_an_image_is_given() -> None:
    names = {path for path, _ in own_image.programs()}
    assert {
        "node.py",
        "exit_codes.json",
        "workloads/models.json",
        "workloads/tasks/python_lines.yaml",
    } <= names
    assert not [name for name in names if name.startswith(("imagebuild/", "requirements/"))]
    assert all((ROOT / "docker" / name).read_bytes() == content for name, content in own_image.programs())
    own = own_image.needed(samples.decided({"workload": "/opt/train.py"}))
    assert not [path for path, _ in own if path.startswith("workloads/")]

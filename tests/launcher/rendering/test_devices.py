"""The GPUs of a host in each container runtime, by vendor: all of them, and none of another vendor's options."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.rendering import containers
from tests import samples
from tests.launcher.planning.test_accelerators import AMD, INTEL


@pytest.mark.parametrize(
    ("runtime", "cluster", "words"),
    [
        ("docker", {"gpu": "h100-80gb"}, ["--gpus=all"]),
        ("podman", {"gpu": "h100-80gb"}, ["--device=nvidia.com/gpu=all"]),
        ("apptainer", {"gpu": "h100-80gb"}, ["--nv"]),
        ("docker", AMD, ["--device=/dev/kfd", "--device=/dev/dri", "--group-add=video"]),
        ("podman", AMD, ["--device=/dev/kfd", "--device=/dev/dri", "--group-add=video"]),
        ("apptainer", AMD, ["--rocm"]),
        ("docker", INTEL, ["--device=/dev/dri", "--group-add=video"]),
    ],
)
def test_devices_in_containers(runtime: str, cluster: dict[str, Any], words: list[str]) -> None:
    plan = samples.decided({"model": "gpt2"}, **cluster)
    entry = containers.node_entry(runtime, plan)
    assert [w for w in entry if w in words] == words
    others = {"--gpus=all", "--device=nvidia.com/gpu=all", "--nv", "--rocm", "--device=/dev/kfd"} - set(words)
    assert not others & set(entry)


def test_pyxis_mounts_amds_devices() -> None:
    plan = samples.decided({"model": "gpt2"}, **AMD)
    (mounts,) = [w for w in containers.node_entry("pyxis", plan) if w.startswith("--container-mounts=")]
    assert mounts.endswith("/dev/kfd:/dev/kfd,/dev/dri:/dev/dri")

"""`make image` and its relatives up to the engine's door: names, engines, command lines, refusals."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from imagebuild import build, check, export, wheels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put executables of these names on a PATH of their own; each notes its words in calls.txt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls.txt"
    monkeypatch.setenv("PATH", str(folder))

    def make(*names: str, body: str = "") -> Path:
        for name in names:
            tool = folder / name
            tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> {calls}\n{body}\n')
            tool.chmod(0o755)
        return calls

    return make


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_tag_is_the_hash_of_the_folder(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.mkdir()
    (docker / "Dockerfile").write_text("FROM scratch\n")
    assert build.revision(docker) == "unversioned"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    first = build.revision(docker)
    assert len(first) == 12
    (tmp_path / "elsewhere").write_text("x")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "two")
    assert build.revision(docker) == first
    (docker / "node.py").write_text("x")
    assert build.revision(docker) == f"{first}-dirty"
    assert build.name("train", "cuda", first) == f"deepspeed-train:{first}-cuda"


def test_the_first_engine_that_works_is_taken(tools: Callable[..., Path]) -> None:
    with pytest.raises(
        build.BuildRefused, match=r"there is neither docker .* apt-get install buildah podman"
    ):
        build.engine("")
    tools("buildah")
    assert build.engine("") == "buildah"
    tools("podman")
    assert build.engine("") == "podman"
    tools("docker", body="exit 1")
    assert build.engine("") == "podman"
    with pytest.raises(build.BuildRefused, match="the docker daemon does not answer"):
        build.engine("docker")
    tools("docker")
    assert build.engine("") == "docker"
    with pytest.raises(build.BuildRefused, match="ENGINE is docker, podman, buildah"):
        build.engine("kaniko")


def test_the_command_keeps_values_whole() -> None:
    made = check.make("train", "cuda", {})
    words = build.command("buildah", "deepspeed-train:x-cuda", check.arguments(made))
    assert words[:3] == ["buildah", "build", "--format"]
    assert "TORCH_CUDA_ARCH_LIST=8.0;9.0;10.0+PTX" in words
    assert words[-1] == str(check.HERE)


def test_a_build_that_would_fill_the_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check.DISK_GB, "cpu", 10**9)
    (problem,) = build.engine_refusals(check.make("train", "cpu", {}), {}, "buildah")
    assert "a cpu build needs 1000000000 GB" in problem


def test_optional_stages_say_what_they_lack() -> None:
    made = check.make("train", "cuda", {})
    assert build.refusals(made, {"NCCL_TESTS": "yes"}) == [
        "NCCL_TESTS=yes: give NCCL_TESTS_SHA256 too, the checksum of the source archive you trust"
    ]
    assert "ENGINE=buildah" in build.engine_refusals(made, {"BASE_IMAGE": "local"}, "docker")[0]


def test_a_refusal_is_lines_not_a_traceback(
    tools: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tools("podman")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_OPS", "FUSED_ADM")
        patch.setenv("CPU_MARCH", "native")
        patch.setitem(check.DISK_GB, "cuda", 0)  # whatever room this machine has
        assert build.main(["--check"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("image: ") for line in lines)


def test_pushing_needs_a_registry(tools: Callable[..., Path]) -> None:
    calls = tools("podman")
    with pytest.raises(export.ExportError, match="make image-push REGISTRY="):
        export.push("podman", "deepspeed-train:x-cuda", "")
    assert (
        export.push("podman", "deepspeed-train:x-cuda", "r.example.org/a/")
        == "r.example.org/a/deepspeed-train:x-cuda"
    )
    assert calls.read_text().splitlines() == [
        "podman tag deepspeed-train:x-cuda r.example.org/a/deepspeed-train:x-cuda",
        "podman push r.example.org/a/deepspeed-train:x-cuda",
    ]


def test_a_sif_goes_through_a_docker_archive(tools: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(export.ExportError, match="apptainer is not on PATH: install Apptainer"):
        export.sif("podman", "deepspeed-train:x-cuda", tmp_path)
    calls = tools("podman", "apptainer")
    file = export.sif("podman", "deepspeed-train:x-cuda", tmp_path)
    saved, built = calls.read_text().splitlines()
    assert file == str(tmp_path / "deepspeed-train-x-cuda.sif")
    archive = saved.split("--output ")[1].split()[0]
    assert built == f"apptainer build --force {file} docker-archive:{archive}"


@pytest.mark.parametrize("engine", ["buildah", "podman"])
def test_a_bundle_goes_through_a_layout(engine: str, tools: Callable[..., Path], tmp_path: Path) -> None:
    calls = tools(engine, "umoci")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):  # the stand-ins unpack nothing
        export.bundle(engine, "deepspeed-train:x-cuda", tmp_path)
    pushed, unpacked = calls.read_text().splitlines()
    tool, layout = pushed.split(" deepspeed-train:x-cuda oci:")
    assert tool.startswith(f"{engine} push --quiet --")
    assert f"--image {layout} {tmp_path}/deepspeed-train-x-cuda.bundle" in unpacked


def test_a_bundle_for_slurm_shares_the_nodes_network_and_memory() -> None:
    config: dict[str, Any] = {
        "hostname": "umoci-default",
        "process": {"terminal": True, "user": {"uid": 10001, "gid": 10001}, "env": ["PATH=/opt/venv/bin"]},
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [{"destination": path} for path in ("/proc", "/dev/shm", "/sys/fs/cgroup")],
        "linux": {
            "resources": {},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "user")],
        },
    }
    made = export.for_slurm(json.loads(json.dumps(config)))
    assert "hostname" not in made
    assert made["process"] == {"terminal": False, "user": {"uid": 0, "gid": 0}, "env": ["PATH=/opt/venv/bin"]}
    assert [each["type"] for each in made["linux"]["namespaces"]] == ["mount", "user"]
    assert "resources" not in made["linux"]
    places = {mount["destination"]: mount.get("source") for mount in made["mounts"]}
    assert places["/dev/shm"] == "/dev/shm"
    assert "/sys/fs/cgroup" not in places


def test_cleaning_removes_this_projects_images_alone(tools: Callable[..., Path]) -> None:
    mine = "localhost/deepspeed-train:1-cpu\\nlocalhost/cuda-base:13.2-devel-2"
    other = "registry.example.org/team/debian-base:12"
    calls = tools(
        "podman", body=f'[ "$1" = images ] && printf "{mine}\\nlocalhost/my-own:1\\n{other}\\n"; true'
    )
    removed = export.clean("podman")
    assert removed.splitlines() == ["localhost/cuda-base:13.2-devel-2", "localhost/deepspeed-train:1-cpu"]
    assert not [name for name in ("my-own", other) if name in calls.read_text()]


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ("8.0\n8.0\n8.0\n", "8.0+PTX"),
        ("8.6\n6.1\n", "6.1;8.6+PTX"),
        ("10.0\n9.0\n8.0\n", "8.0;9.0;10.0+PTX"),
        ("\n", ""),
    ],
)
def test_the_wheel_is_for_every_kind_of_card_here(cards: str, expected: str) -> None:
    assert wheels.architectures(cards) == expected


def test_wheels_without_a_card_ask_for_the_architectures(tools: Callable[..., Path]) -> None:
    tools("g++", "nvcc")
    with pytest.raises(wheels.WheelsError, match=r"TORCH_CUDA_ARCH_LIST=.8\.0;9\.0"):
        wheels.wanted({}, "")
    assert wheels.wanted({}, "9.0+PTX").architectures == "9.0+PTX"
    assert wheels.wanted({"TORCH_CUDA_ARCH_LIST": "8.0"}, "9.0+PTX").architectures == "8.0"


def test_wheels_name_what_the_machine_lacks(tools: Callable[..., Path]) -> None:
    tools()
    with pytest.raises(wheels.WheelsError) as caught:
        wheels.wanted({}, "6.1+PTX")
    assert str(caught.value).splitlines() == [
        "TORCH_CUDA_ARCH_LIST: CUDA 13.2 has no architecture 6.1; it has "
        + " ".join(check.ARCHITECTURES["13.2"]),
        "g++ is not on PATH: install g++",
        "nvcc is not on PATH: install CUDA 13.2's toolkit",
    ]


def test_a_wheel_that_no_lock_names_is_found(tmp_path: Path) -> None:
    (tmp_path / "torch-2.15.0-cp312-none-any.whl").write_bytes(b"not what was locked")
    locks = check.lock("train", "cuda").read_text()
    assert wheels.unlocked(tmp_path, locks) == ["torch-2.15.0-cp312-none-any.whl"]


def test_the_targets_are_documented_and_start() -> None:
    makefile = (check.HERE / "images.mk").read_text()
    for target in (
        "image",
        "image-push",
        "image-lint",
        "image-test",
        "sqsh",
        "sif",
        "bundle",
        "wheels",
        "image-clean",
    ):
        assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE), target
    done = subprocess.run(
        ["make", "-f", "docker/images.mk", "image-check", "FLAVOUR=rocm", f"PYTHON={sys.executable}"],
        cwd=check.HERE.parent,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "image: FLAVOUR=rocm: FLAVOUR is cuda or cpu" in done.stderr

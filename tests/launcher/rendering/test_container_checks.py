"""What is refused before a container runtime would refuse it, or take it for something else."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.rendering import container_checks
from tests import samples

ENGINES = ("docker", "podman")
UNPACKED = ("oci", "charliecloud")
RUNTIMES = (*ENGINES, *UNPACKED, "pyxis", "apptainer")
JOB = {"workload": "/work/train.py"}


def messages(runtime: str, job: dict[str, Any] = JOB, runs: str = "/runs", **cluster: Any) -> list[str]:
    decided = samples.decided(job, **{"image": "/images/x", **cluster})
    decided = decided._replace(workspace=decided.workspace._replace(runs=runs))
    wrong = [problem.message for problem in container_checks.problems(runtime, decided)]
    is_engine = runtime in ENGINES and "image" not in cluster  # these take no path
    return [message for message in wrong if not (is_engine and message.startswith("image "))]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("image", ["", " ", "a b:1", "-x:1", "--privileged", "täg:täg", "x:y:z", "Team/X:1"])
def test_what_no_runtime_takes_for_an_image(runtime: str, image: str) -> None:
    (message,) = messages(runtime, image=image)
    assert message.startswith(f"image {image!r}")


@pytest.mark.parametrize("image", ["x:1", "reg.io:5000/x/y:1", "localhost/x:1", f"x@sha256:{'0' * 64}"])
def test_images_of_a_registry(image: str) -> None:
    assert {runtime: messages(runtime, image=image) for runtime in (*ENGINES, "pyxis", "apptainer")} == {
        runtime: [] for runtime in (*ENGINES, "pyxis", "apptainer")
    }
    assert all(messages(runtime, image=image) for runtime in UNPACKED)


@pytest.mark.parametrize(
    ("image", "takes"),
    [
        ("/images/x", {"oci", "charliecloud", "pyxis", "apptainer"}),
        ("/images/x.sqsh", {"pyxis", "apptainer"}),
        ("./x.sqsh", {"pyxis"}),
        ("x.sif", set()),
        ("docker://nvcr.io/a/b:1", {"pyxis"}),
        ("nvcr.io#a/b:1", {"pyxis"}),
    ],
)
def test_paths_and_names_of_one_runtime(image: str, takes: set[str]) -> None:
    # an engine looks for x.sif in a registry: that is its business
    asked = set(RUNTIMES) - (set(ENGINES) if image == "x.sif" else set())
    assert {runtime for runtime in asked if not messages(runtime, image=image)} == takes


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        ({"/": "/x"}, "a mount on / would hide the image"),
        ({"/x/..": "/x"}, "a mount on / would hide the image"),
        ({"/opt/venv": "/x"}, "a mount on /opt/venv would hide the image's Python"),
        ({"/opt/": "/x"}, "a mount on /opt would hide the image's programs"),
        ({"/tmp": "/x"}, "/tmp is mounted twice, as `scratch` and as /tmp"),
        ({"/runs/": "/x"}, "/runs is mounted twice, as the run folders and as /runs/"),
        ({"/data": "/a", "/data/": "/b"}, "/data is mounted twice, as a mount of the cluster and as /data/"),
        (
            {"/data": "/a", "//data/.": "/b"},
            "/data is mounted twice, as a mount of the cluster and as //data/.",
        ),
    ],
)
@pytest.mark.heavy
def test_mounts_that_hide_something(runtime: str, mounts: dict[str, str], message: str) -> None:
    assert messages(runtime, mounts=mounts) == [message]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_mounts_that_hide_nothing(runtime: str) -> None:
    assert (
        messages(runtime, mounts={"/data": "/x", "/opt/job/data": "/x", "/runs/data": "/y", "/tmp/a": "/z"})
        == []
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("runs", ["/a,b", "/a:b", "/a\nb", '/a"b', "/a'b", "/a\\b"])
def test_the_folder_of_runs_is_one_path(runtime: str, runs: str) -> None:
    assert bool(messages(runtime, runs=runs)) == (runtime != "oci")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_program_in_this_folder_is_not_in_the_container(runtime: str) -> None:
    (message,) = messages(runtime, {"workload": "./train.py"})
    assert message == "workload './train.py': a container does not start in this folder"

"""GPUs, memory and cores of a user's own sbatch options: one way of asking at a time, for as many as the slots are."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import PlanError
from launcher.schedulers.slurm import options, resources
from tests import samples


def written(**given: Any) -> dict[str, Any]:
    return dict(options.of(samples.decided(gpu="h100-80gb", slots=8, cpus=64, slurm={"sbatch": given})))


@pytest.mark.parametrize(
    "given",
    [
        {"gres": "gpu:h100:8"},
        {"gres": "gpu:h100:8,nvme:1"},
        {"gpus": "h100:8"},
        {"gpus-per-task": 8},
        {"tres-per-task": "gres/gpu:8"},
        {"gpus-per-node": "h100:8"},
        {"gres": "gpu"},
    ],
)
def test_gpus_are_asked_for_in_one_way(given: dict[str, Any]) -> None:
    asked = {name: value for name, value in written(**given).items() if "gpu" in f"{name}{value}"}
    assert asked == given


@pytest.mark.parametrize("name", ["gpus", "gres", "mem-per-gpu", "cpus-per-gpu"])
@pytest.mark.parametrize("value", [None, False])
def test_null_leaves_an_option_out(name: str, value: object) -> None:
    assert {"gpus-per-node": 8, "mem": 0}.items() <= written(**{name: value}).items()


@pytest.mark.parametrize(("gres", "own"), [("nic_gpu_rail:1", True), ("gpu:8,nic_gpu_rail:1", False)])
def test_other_names_with_gpu_in_them_are_none(gres: str, own: bool) -> None:
    assert ("gpus-per-node" in written(gres=gres)) == own


def test_other_resources_are_beside_the_gpus() -> None:
    assert {k: v for k, v in written(gres="nvme:1").items() if k in {"gres", "gpus-per-node", "mem"}} == {
        "gres": "nvme:1",
        "gpus-per-node": 8,
        "mem": 0,
    }


@pytest.mark.parametrize("name", ["mem-per-cpu", "mem-per-gpu"])
def test_memory_is_asked_for_in_one_way(name: str) -> None:
    assert "mem" not in written(**{name: "4G"})
    assert written(mem="100G")["mem"] == "100G"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpus-per-node": "h100:4"}, "gpus-per-node asks for 4 GPUs, and a host has 8 slots"),
        ({"gres": "gpu:h100:1"}, "gres asks for 1 GPU, and a host has 8 slots"),
        ({"gres": "gpu:h100:4,gpu:a100:2,nvme:8"}, "gres asks for 6 GPUs, and a host has 8 slots"),
        ({"gpus-per-task": 1}, "gpus-per-task asks for 1 GPU, and a host has 8 slots"),
        ({"tres-per-task": "gres/gpu:4"}, "tres-per-task asks for 4 GPUs, and a host has 8 slots"),
        ({"gpus": 16}, "gpus asks for 16 GPUs, and the job has 8 slots"),
        (
            {"cpus-per-gpu": 8},
            "cpus-per-gpu is beside `cpus:` of the cluster file, and sbatch takes one of the two",
        ),
    ],
)
def test_what_does_not_go_with_the_slots_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        written(**given)


@pytest.mark.parametrize("text", ["gpu", "gpu:h100", "h100:all", "gpu:$N"])
def test_what_is_not_understood_is_slurms_to_say(text: str) -> None:
    assert resources._count(text) is None

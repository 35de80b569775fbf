"""Hosts with GPUs of another vendor: what Kubernetes calls them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.errors import PlanError
from launcher.planning import accelerators, image_check
from launcher.schedulers import kubernetes
from tests import samples

AMD = {"gpu": "mi300x-192gb", "slots": 8, "fabric": "infiniband", "image": "registry.example.com/rocm:7"}
INTEL = {
    "gpu": {"name": "max-1550", "vendor": "intel", "memory": "64GB"},
    "image": "registry.example.com/xpu:1",
}
MIG = {"gpu": {"name": "h100-80gb", "memory": "10GB"}, "slots": 1}
SLICE = "nvidia.com/mig-1g.10gb"


@pytest.mark.parametrize(
    ("cluster", "given", "name"),
    [
        ({"gpu": "h100-80gb"}, {}, "nvidia.com/gpu"),
        (AMD, {}, "amd.com/gpu"),
        (INTEL, {}, "gpu.intel.com/i915"),
        (INTEL, {"gpu_resource": "gpu.intel.com/xe"}, "gpu.intel.com/xe"),
        (MIG, {"gpu_resource": SLICE}, SLICE),
        ({}, {}, ""),
    ],
)
def test_the_resource_of_a_gpu(cluster: dict[str, Any], given: dict[str, Any], name: str) -> None:
    assert accelerators.resource(samples.cluster(**cluster, kubernetes=given)) == name


def test_a_pod_asks_for_slices_and_tolerates_both_taints() -> None:
    plan = samples.decided(
        {"model": "gpt2"}, **MIG, fabric="tcp", kubernetes={"gpu_resource": SLICE, "queue": "q"}
    )
    (text,) = kubernetes.render(plan).values()
    assert f'"{SLICE}": "1"' in text
    assert '"nvidia.com/gpu": "' not in text
    assert text.count('"operator": "Exists"') == 4
    for key in ("nvidia.com/gpu", SLICE):
        assert f'{{"key": "{key}"' in text or f'"key": "{key}"' in text


def test_the_number_of_a_resource_is_that_of_slots() -> None:
    given = {"gpu_resource": SLICE, "resources": {SLICE: 2}}
    plan = samples.decided({"model": "gpt2"}, **MIG, fabric="tcp", kubernetes=given)
    with pytest.raises(PlanError, match=f"2 {SLICE}, but a host has 1 slots"):
        kubernetes.render(plan)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (AMD | {"fabric": "efa-p5"}, "fabric 'efa-p5' is for NVIDIA's NCCL, which AMD's GPUs do not use"),
        (
            AMD | {"fabric": "infiniband-sharp"},
            "use loopback, tcp, infiniband, roce, pollara, azure-mi300x, oci",
        ),
        (
            {"gpu": "h100-80gb", "slots": 8, "fabric": "oci-mi355x"},
            "fabric 'oci-mi355x' is for AMD's RCCL, which NVIDIA's GPUs do not use",
        ),
        (INTEL | {"fabric": "infiniband"}, "give what oneCCL needs below `env:`"),
        (AMD | {"kubernetes": {"gpu_resource": SLICE}}, f"{SLICE} is NVIDIA's, and mi300x-192gb is AMD's"),
        (
            MIG | {"slots": 2, "kubernetes": {"gpu_resource": SLICE}},
            "a process sees one slice, and the second of 2",
        ),
        ({"kubernetes": {"gpu_resource": SLICE}, "slots": 1}, "the hosts have no GPU; add `gpu:`"),
    ],
)
def test_what_does_not_go_together_is_refused(cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        samples.decided({"model": "gpt2"}, **cluster)


def test_the_projects_own_image_is_nvidias() -> None:
    plan = samples.decided({"model": "gpt2"}, **AMD | {"image": "deepspeed-train"})
    assert "is for NVIDIA's GPUs, and hosts have mi300x-192gb" in str(image_check.refusal(plan, None))
    assert image_check.refusal(samples.decided({"model": "gpt2"}, **AMD), None) is None

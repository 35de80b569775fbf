"""How the GPUs of a host get into a container, by vendor: the options of each runtime.

Sources: https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/ and, of AMD's,
https://rocm.docs.amd.com/projects/install-on-linux/en/latest/how-to/docker.html and
https://apptainer.org/docs/user/main/gpu.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

_PATHS = {"amd": ("/dev/kfd", "/dev/dri"), "intel": ("/dev/dri",)}
_NVIDIA = {"docker": ["--gpus=all"], "podman": ["--device=nvidia.com/gpu=all"], "apptainer": ["--nv"]}
_APPTAINER = {"amd": ["--rocm"]}  # which sees all of /dev besides


def options(runtime: str, plan: Plan) -> list[str]:
    """The options that let a container of docker, podman or apptainer use all GPUs of its host; none without GPUs."""
    card = plan.cluster.card
    if card is None:
        return []
    if card.vendor == "nvidia":
        return _NVIDIA[runtime]
    if runtime == "apptainer":
        return _APPTAINER.get(card.vendor, [])
    return [f"--device={path}" for path in _PATHS[card.vendor]] + ["--group-add=video"]


def paths(plan: Plan) -> tuple[str, ...]:
    """Device files that a runtime without such options has to mount; NVIDIA's are its own hook's."""
    return _PATHS.get(plan.cluster.card.vendor, ()) if plan.cluster.card else ()

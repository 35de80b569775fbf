"""Weights of the hub, which the node entry fetches once a host before the ranks start (docker/weights.py).

Owns for which jobs, and where on Kubernetes they are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.sizing import models

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

# Either of them says where: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
_PLACES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
HOME = "HF_HOME"


def fetched(plan: Plan) -> str:
    """The hub model whose weights the ranks load; '' where they load none, and of a program of the user's own."""
    job = plan.job
    if workloads.is_script(job.workload) or job.model is None or not models.is_of_hub(job.model):
        return ""
    loads = "model" in workloads.options(job.workload) and workloads.traits(job.workload).needs_accelerator
    return job.model if loads else ""


def home(plan: Plan, folder: str) -> str:
    """HF_HOME of pods: below `folder`, the claim of the run folders; '' where the files say it, or none is needed."""
    said = {v.name for v in plan.environment} | {secret.variable for secret in plan.secrets}
    if not fetched(plan) or not plan.cluster.kubernetes.runs or said & set(_PLACES):
        return ""
    return f"{folder}/huggingface"

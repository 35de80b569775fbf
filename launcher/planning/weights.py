"""Weights and tokenizers of the hub, which the node entry fetches once a host before ranks start (docker/weights.py).

Owns for which jobs, and where on Kubernetes they are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher import workloads
from launcher.namedtuple import NamedTuple
from launcher.sizing import models

if TYPE_CHECKING:
    from launcher.planning.plan import Plan

# Either of them says where: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
_PLACES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
HOME = "HF_HOME"


class Fetched(NamedTuple):
    """Repositories of the hub that the ranks of a job read: with weights, and for their tokenizer alone."""

    models: tuple[str, ...] = ()
    tokenizers: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        """The node entry's."""
        return [f"--fetch={name}" for name in self.models] + [
            f"--fetch-tokenizer={name}" for name in self.tokenizers
        ]


def fetched(plan: Plan) -> Fetched:
    """What `model:` and the workload's options name of the hub; nothing of a program of the user's own."""
    job = plan.job
    if workloads.is_script(job.workload):
        return Fetched()
    read = list(workloads.hub_names(job.workload, plan.args))
    named = {name for name, _ in read if models.is_repository(name)}
    if job.model and models.is_of_hub(job.model) and "model" in workloads.options(job.workload):
        named.add(job.model)
        loads = workloads.traits(job.workload).needs_accelerator and not plan.args.get("random-weights")
        read.insert(0, (job.model, loads))
    whole = [name for name, weights in read if name in named and weights]
    rest = [name for name, _ in read if name in named and name not in whole]
    return Fetched(tuple(dict.fromkeys(whole)), tuple(dict.fromkeys(rest)))


def home(plan: Plan, folder: str) -> str:
    """HF_HOME of pods: below `folder`, the claim of the run folders; '' where the files say it, or none is needed."""
    said = {v.name for v in plan.environment} | {secret.variable for secret in plan.secrets}
    if not any(fetched(plan)) or not plan.cluster.kubernetes.runs or said & set(_PLACES):
        return ""
    return f"{folder}/huggingface"

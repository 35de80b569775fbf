"""A TrainJob on a runtime of the cluster: what each release of Kubeflow Trainer lets it override.

Owns the three shapes of that field and what none of them can say; a TrainJob with its own runtime needs none of it.

    2.0   podSpecOverrides      https://github.com/kubeflow/trainer/blob/v2.0.0/pkg/apis/trainer/v1alpha1/trainjob_types.go
    2.1   podTemplateOverrides  https://github.com/kubeflow/trainer/blob/v2.1.0/pkg/apis/trainer/v1alpha1/trainjob_types.go
    2.2   runtimePatches        https://github.com/kubeflow/trainer/blob/v2.2.0/pkg/apis/trainer/v1alpha1/trainjob_types.go
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.errors import Problem
from launcher.namedtuple import NamedTuple
from launcher.rendering import templates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan
    from launcher.schedulers.kubernetes.pods import Pod

JOB = "node"  # the replicated job and its container, in every runtime that Trainer ships
MANAGER = "launcher.deepspeed/run"
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # to YAML 1.1


class Overrides(NamedTuple):
    """The name of a TrainJob's field and the one entry of its list."""

    field: str
    value: dict[str, Any]

    @property
    def text(self) -> templates.Code:
        """`value` as YAML, below a list's dash at depth 2."""
        return templates.Code(_tree(self.value, 3).lstrip())


def _tree(value: Any, depth: int) -> str:
    """`value` as YAML: JSON on this line where that is short, else lines, each `depth` × 2 blanks in."""
    flat = templates.yaml(value)
    if len(flat) <= 90 or not isinstance(value, (dict, list)):
        return f" {flat}"
    pad = "\n" + "  " * depth
    if isinstance(value, dict):
        return "".join(f"{pad}{_key(key)}:{_tree(inner, depth + 1)}" for key, inner in value.items())
    return "".join(f"{pad}- {_tree(inner, depth + 1).lstrip()}" for inner in value)


def _key(text: str) -> str:
    """A key, in quotes unless it is a plain word that YAML does not take for something else."""
    plain = text.isalpha() and text.lower() not in _NOT_TEXT
    return text if plain else templates.yaml(text)


def overrides(plan: Plan, pod: Pod) -> Overrides:
    """What the release named in `kubernetes.trainer` takes of `pod`."""
    cluster, release = plan.cluster.kubernetes, plan.cluster.kubernetes.trainer
    spec: dict[str, Any] = {
        "tolerations": pod.tolerations,
        "volumes": list(pod.volumes),
        "containers": [{"name": JOB, "volumeMounts": list(pod.mounts)}],
    }
    spec |= {"nodeSelector": pod.node_selector} if pod.node_selector else {}
    spec |= {"serviceAccountName": cluster.service_account} if cluster.service_account else {}
    if release == "2.0":
        return Overrides("podSpecOverrides", {"targetJobs": [{"name": JOB}], **spec})
    spec |= {"affinity": pod.affinity} if pod.affinity else {}
    secrets = [{"name": name} for name in cluster.image_pull_secrets]
    spec |= {"imagePullSecrets": secrets} if secrets else {}
    metadata: dict[str, Any] = {"labels": pod.labels}
    metadata |= {"annotations": pod.annotations} if pod.annotations else {}
    if release == "2.1":
        return Overrides(
            "podTemplateOverrides", {"targetJobs": [{"name": JOB}], "metadata": metadata, "spec": spec}
        )
    spec["terminationGracePeriodSeconds"] = cluster.grace_seconds
    spec["securityContext"] = pod.rights.pod
    spec["containers"] = [
        {"name": JOB, "volumeMounts": list(pod.mounts), "securityContext": pod.rights.container}
    ]
    template = {"metadata": metadata, "spec": spec}
    jobs = [{"name": JOB, "template": {"spec": {"template": template}}}]
    return Overrides(
        "runtimePatches",
        {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}},
    )


def left(plan: Plan) -> list[str]:
    """What stays as the cluster's runtime has it, in words."""
    overrides = [
        "restarts, and the failures after which it restarts",
        "whether pods get a service account token",
    ]
    if plan.cluster.kubernetes.trainer != "2.2":
        overrides += [
            f"the grace period: ranks need {plan.cluster.kubernetes.grace_seconds} s to save",
            "the security context: user, capabilities, root file system",
            "activeDeadlineSeconds: the job's walltime is not enforced",
        ]
    return overrides


def problems(plan: Plan, pod: Pod) -> Iterator[Problem]:
    """What the run needs and a TrainJob on a runtime of the cluster cannot have."""
    release, fabric = plan.cluster.kubernetes.trainer, plan.fabric
    wanted = {
        "sidecars (fabric {fabric})": bool(pod.sidecars),
        "claims of devices (fabric {fabric})": bool(pod.claims),
        "the host's network (fabric {fabric})": pod.rights.host_network,
        "kubernetes.priority_class": plan.cluster.kubernetes.priority_class is not None,
        "another scheduler (kubernetes.scheduler, queueing)": pod.scheduler is not None,
        "an exclusive topology": bool(
            plan.cluster.kubernetes.topology and plan.cluster.kubernetes.topology.exclusive
        ),
        "capabilities (fabric {fabric})": release != "2.2"
        and bool(pod.rights.container.get("privileged") or pod.rights.pod["runAsUser"] == 0),
        "kubernetes.affinity or topology": release == "2.0" and bool(pod.affinity),
        "kubernetes.image_pull_secrets": release == "2.0"
        and bool(plan.cluster.kubernetes.image_pull_secrets),
        "annotations of pods": release == "2.0" and bool(pod.annotations),
    }
    for what, needed in wanted.items():
        if needed:
            yield Problem(
                f"Trainer {release} cannot give {what.format(fabric=fabric.name)} to a runtime of the cluster",
                "leave kubernetes.runtime out: the run then creates its own runtime",
                about=("cluster", "kubernetes", "runtime"),
            )

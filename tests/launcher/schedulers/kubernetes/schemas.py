"""Strict structural checks of a manifest without a server: unknown fields, wrong types, what is missing.

Owns which schema judges which object: kubernetes-validate for Kubernetes' own (and for the pods inside of all others),
the models of kubeflow-trainer-api and kubeflow-training for what those projects define, and the definitions of all
custom resources (crds.json). What no schema tells is audit.py's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import kubernetes_validate
from kubernetes_validate import utils

from tests.launcher.schedulers.kubernetes import crds

if TYPE_CHECKING:
    from collections.abc import Iterator

# kubernetes-validate reads a release's definitions, 10 ms of JSON, anew for every object.
utils.schema_contents = functools.cache(utils.schema_contents)

Object = dict[str, Any]
OLDEST, NEWEST = "1.30", "1.37"  # sidecars need 1.29, and 1.30 is the oldest that clouds still run

# What older releases of Trainer know of a TrainJob: kubeflow_trainer_api 2.0.0 and 2.1.0, models/
_TRAINJOB = {"annotations", "initializer", "labels", "managedBy", "runtimeRef", "suspend", "trainer"}
_POD = {
    "containers",
    "initContainers",
    "nodeSelector",
    "schedulingGates",
    "serviceAccountName",
    "tolerations",
    "volumes",
}
_CONTAINER = {"env", "name", "volumeMounts"}
# https://github.com/volcano-sh/apis/blob/v1.12.1/pkg/apis/scheduling/v1beta1/types.go
# https://github.com/kubernetes-sigs/scheduler-plugins/blob/v0.31.8/apis/scheduling/v1alpha1/types.go
_POD_GROUPS: dict[str, dict[str, type]] = {
    "scheduling.volcano.sh/v1beta1": {
        "minMember": int,
        "minResources": dict,
        "queue": str,
        "priorityClassName": str,
        "networkTopology": dict,
    },
    "scheduling.x-k8s.io/v1alpha1": {"minMember": int, "minResources": dict, "scheduleTimeoutSeconds": int},
}


def problems(document: Object, version: str = NEWEST) -> list[str]:
    """What the schemas say against `document`; [] when nothing."""
    api, kind = document["apiVersion"], document["kind"]
    if kind == "PodGroup":
        return list(_pod_group(document))
    found: list[str] = []
    if api in {"v1", "batch/v1", "networking.k8s.io/v1", "resource.k8s.io/v1"}:
        return list(_core(document, version))
    for template in pod_templates(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}}
        pod["spec"] = template["spec"]
        found += _core(pod, version)
    older = kind == "TrainJob" and {"podSpecOverrides", "podTemplateOverrides"} & set(document["spec"])
    if older:
        return found + list(_older_trainjob(document["spec"]))
    if kind in {"TrainJob", "TrainingRuntime", "JobSet"}:
        found += _round_trip(document)
    if kind == "PyTorchJob":
        found += _walk(document, "KubeflowOrgV1PyTorchJob", kind)
    return found + crds.problems(document)


def pod_templates(document: Any) -> Iterator[Object]:
    """Every pod template inside an object: what has a spec with containers of whole pods."""
    if isinstance(document, dict):
        spec = document.get("spec") or {}
        whole = isinstance(spec, dict) and {"containers", "terminationGracePeriodSeconds"} <= set(spec)
        if whole and all("image" in c for c in spec["containers"]):
            yield {"metadata": document.get("metadata", {}), "spec": spec}
            return
        for value in document.values():
            yield from pod_templates(value)
    elif isinstance(document, list):
        for value in document:
            yield from pod_templates(value)


def _core(document: Object, version: str) -> Iterator[str]:
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{document['kind']}.{'.'.join(map(str, error.path))}: {error.message}"


def _round_trip(document: Object) -> Iterator[str]:
    """Through kubeflow-trainer-api's models, which raise on a wrong type and drop an unknown field."""
    from kubeflow_trainer_api import models  # type: ignore[import-not-found, import-untyped, unused-ignore]

    names = {"JobSet": "JobsetV1alpha2JobSet"}
    name = names.get(document["kind"], f"TrainerV1alpha1{document['kind']}")
    try:
        kept = getattr(models, name).from_dict(document).to_dict()
    except ValueError as error:
        yield f"{document['kind']}: {error}"
        return
    yield from _lost(document, kept, document["kind"])


def _lost(given: Any, kept: Any, path: str) -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if kept.get(key) is None:
                yield f"{path}.{key} is unknown"
            else:
                yield from _lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{path}[{number}]")
    elif given != kept:
        yield f"{path} is {given!r}, not {kept!r}"


def _walk(value: Any, type_: str, path: str) -> Iterator[str]:
    """Through the models of kubeflow-training and kubernetes, by the types they declare."""
    from kubeflow.training import models as kubeflow
    from kubernetes.client import models as core

    outer, _, inner = type_.partition("[" if type_.startswith("list[") else "(")
    if outer in {"list", "dict"}:
        each = inner[:-1].split(", ")[-1]
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _walk(item, each, f"{path}.{key}")
        return
    # str: a quantity may be a whole number
    plain: dict[str, Any] = {"str": (str, int), "int": int, "bool": bool, "float": float}
    if type_ in plain:
        if not isinstance(value, plain[type_]) or (type_ == "int" and isinstance(value, bool)):
            yield f"{path} is {value!r}, not {type_}"
        return
    model = getattr(kubeflow, type_, None) or getattr(core, type_, None)
    if model is None:
        return
    fields = {json: model.openapi_types[name] for name, json in model.attribute_map.items()}
    for key, item in value.items():
        if key not in fields:
            yield f"{path}.{key} is unknown"
        else:
            yield from _walk(item, str(fields[key]), f"{path}.{key}")


def _older_trainjob(spec: Object) -> Iterator[str]:
    field = "podSpecOverrides" if "podSpecOverrides" in spec else "podTemplateOverrides"
    yield from (f"TrainJob.spec.{key} is unknown" for key in set(spec) - _TRAINJOB - {field})
    for override in spec[field]:
        inner = override if field == "podSpecOverrides" else override["spec"]
        known = _POD | ({"targetJobs"} if field == "podSpecOverrides" else {"affinity", "imagePullSecrets"})
        yield from (f"{field}.{key} is unknown" for key in set(inner) - known)
        for container in inner["containers"]:
            yield from (f"{field}.containers.{key} is unknown" for key in set(container) - _CONTAINER)


def _pod_group(document: Object) -> Iterator[str]:
    known = _POD_GROUPS[document["apiVersion"]]
    for key, value in document["spec"].items():
        if key not in known:
            yield f"PodGroup.spec.{key} is unknown"
        elif not isinstance(value, known[key]):
            yield f"PodGroup.spec.{key} is {value!r}"

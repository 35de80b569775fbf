"""What is no patch of a pod is named, by its path, before anything is merged."""

from __future__ import annotations

import re
from typing import Any

import pytest

from launcher.errors import SpecError
from launcher.schedulers import kubernetes
from launcher.schedulers.kubernetes import pod_shape
from tests.launcher.schedulers.kubernetes import variants

Object = dict[str, Any]


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ({"metadata": {"labls": {}}}, "metadata.labls is no field of a pod; did you mean 'labels'?"),
        ({"metadata": {"labels": "x"}}, "metadata.labels is 'x', not a mapping"),
        ({"metadata": {"annotations": ["a"]}}, 'metadata.annotations is ["a"], not a mapping'),
        ({"spec": {"runtimeClasName": "x"}}, "spec.runtimeClasName is no field of a pod; did you mean"),
        ({"spec": {"$patch": "replace"}}, "spec.$patch cannot be of all that a run needs"),
        ({"spec": {"$patch": "delete"}}, "spec.$patch cannot be of all that a run needs"),
        ({"spec": {"containers": {"name": "node"}}}, 'spec.containers is {"name": "node"}, not a list'),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0] has no name; the ranks' container"),
        (
            {"spec": {"containers": [{"name": "node", "imag": "x"}]}},
            "containers[0].imag is no field of a pod",
        ),
        ({"spec": {"containers": [{"name": "node", "env": {"A": "b"}}]}}, 'env is {"A": "b"}, not a list'),
        ({"spec": {"containers": [{"name": "node", "env": ["A"]}]}}, "env[0] is 'A', not a mapping"),
        (
            {"spec": {"containers": [{"name": "node", "env": [{"name": "A", "value": 5}]}]}},
            "env[0].value is 5, not text; write it in quotes",
        ),
        (
            {"spec": {"containers": [{"name": "node", "volumeMounts": [{"name": "x"}]}]}},
            "volumeMounts[0] has no mountPath",
        ),
        ({"spec": {"volumes": {"a": "b"}}}, 'spec.volumes is {"a": "b"}, not a list'),
        ({"spec": {"volumes": ["x"]}}, "spec.volumes[0] is 'x', not a mapping"),
        ({"spec": {"imagePullSecrets": ["a"]}}, "spec.imagePullSecrets[0] is 'a', not a mapping"),
        ({"spec": {"nodeSelector": ["a"]}}, 'spec.nodeSelector is ["a"], not a mapping'),
        ({"spec": {"priority": True}}, "spec.priority is true, not a whole number"),
        (
            {"spec": {"volumes": [{"name": "a", "$patch": "replace"}]}},
            "volumes[0].$patch is 'replace'; delete",
        ),
    ],
)
def test_what_is_no_patch_of_a_pod_is_named(patch: Object, says: str) -> None:
    with pytest.raises(SpecError) as refused:
        kubernetes.render(variants.decide({"pod_patch": patch}))
    assert says in str(refused.value)


def test_the_table_has_the_fields_of_the_client() -> None:
    from kubernetes.client import models

    plain = {"quantity": "str"}
    for name, fields in pod_shape.TYPES.items():
        model = getattr(models, f"V1{name}", None) or getattr(models, f"CoreV1{name}")
        types = {json: str(model.openapi_types[own]) for own, json in model.attribute_map.items()}
        for field, type_ in fields.items():
            words = re.findall(r"[A-Za-z]+", re.sub("V1", "", types[field].replace("dict(str, ", "dict(")))
            assert [plain.get(word, word) for word in re.findall("[A-Za-z]+", type_)] == [
                word.removeprefix("Core") for word in words
            ]

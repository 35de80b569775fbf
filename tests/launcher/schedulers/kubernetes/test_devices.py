"""Devices that pods claim from a DRA driver, in place of those that a device plugin counts."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from launcher.errors import PlanError
from launcher.schedulers import kubernetes
from tests.launcher.schedulers.kubernetes import schemas, variants

EFA = "vpc.amazonaws.com/efa"


def rendered(own: dict[str, Any], **cluster: Any) -> dict[str, dict[str, Any]]:
    """Kind → the object of a run."""
    text = kubernetes.render(variants.decide(own, **cluster))["manifest.yaml"]
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def pod(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (template,) = schemas.pod_templates(objects["Job"])
    spec: dict[str, Any] = template["spec"]
    return spec


def test_adapters_are_claimed_and_no_longer_counted() -> None:
    objects = rendered({"adapters": "dra"}, fabric="efa-p5")
    template = objects["ResourceClaimTemplate"]
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"] == {"deviceClassName": "efa.networking.k8s.aws", "count": 32}
    spec = pod(objects)
    (claim,) = spec["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]
    resources = spec["containers"][0]["resources"]
    assert resources["claims"] == [{"name": claim["name"]}]
    assert not {EFA} & {*resources["limits"], *resources["requests"]}
    assert resources["limits"]["hugepages-2Mi"] == "5120Mi"


def test_a_device_plugin_counts_them_otherwise() -> None:
    objects = rendered({}, fabric="efa-p5")
    assert "ResourceClaimTemplate" not in objects
    assert pod(objects)["containers"][0]["resources"]["limits"][EFA] == "32"
    assert "resourceClaims" not in pod(objects)


def test_a_number_of_the_file_is_claimed() -> None:
    """Of an instance whose number of adapters no source tells."""
    own = {"adapters": "dra", "resources": {EFA: 8}}
    objects = rendered(own, fabric="efa-p6e-gb200", gpu="gb200-186gb", slots=4)
    (request,) = objects["ResourceClaimTemplate"]["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["count"] == 8
    names = {claim["resourceClaimTemplateName"] for claim in pod(objects)["resourceClaims"]}
    assert names == {
        objects["ResourceClaimTemplate"]["metadata"]["name"],
        objects["ComputeDomain"]["spec"]["channel"]["resourceClaimTemplate"]["name"],
    }


def test_a_fabric_without_a_driver_is_refused() -> None:
    with pytest.raises(PlanError) as refused:
        rendered({"adapters": "dra"}, fabric="infiniband")
    assert "kubernetes.adapters dra: no DRA driver is known for the adapters of fabric 'infiniband'" in str(
        refused.value
    )
    assert "efa-p5" in str(refused.value)


def test_none_is_claimed_where_the_file_says_none() -> None:
    """A claim of no devices is refused by the API server."""
    objects = rendered({"adapters": "dra", "resources": {EFA: 0}}, fabric="efa-p5")
    assert "ResourceClaimTemplate" not in objects
    assert "resourceClaims" not in pod(objects)


def test_more_than_a_claim_holds_is_refused() -> None:
    """The scheduler would never place such a pod."""
    with pytest.raises(
        PlanError, match=f"kubernetes.resources: {EFA} 33 is more than a claim of a pod holds"
    ):
        rendered({"adapters": "dra", "resources": {EFA: 33}}, fabric="efa-p5")

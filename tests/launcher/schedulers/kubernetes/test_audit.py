"""audit.py itself: it refuses whatever a server refuses, so that its silence means something."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from tests.launcher.schedulers.kubernetes import audit, broken, schemas, variants


@pytest.fixture(scope="module")
def good() -> list[dict[str, Any]]:
    text = variants.text("job-plain")
    return list(yaml.load_all(text, yaml.CSafeLoader))


@pytest.mark.parametrize("fault", broken.BROKEN)
def test_every_fault_is_found(fault: str, good: list[dict[str, Any]]) -> None:
    assert audit.problems(good) == []
    assert audit.problems(broken.broken(good, fault))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"subdomian": "x"}, "subdomian"),
        ({"hostNetwork": "yes"}, "hostNetwork"),
        ({"containers": {}}, "containers"),
    ],
)
def test_schemas_find_unknown_fields_and_wrong_types(
    change: dict[str, Any], where: str, good: list[dict[str, Any]]
) -> None:
    job = copy.deepcopy(good[-1])
    job["spec"]["template"]["spec"].update(change)
    for version in (schemas.OLDEST, schemas.NEWEST):
        assert where in " ".join(schemas.problems(job, version))


@pytest.mark.parametrize("kind", ["jobset", "trainjob", "pytorchjob"])
@pytest.mark.heavy
def test_models_find_unknown_fields(kind: str) -> None:
    text = variants.text(f"{kind}-plain")
    main = list(yaml.load_all(text, yaml.CSafeLoader))[-1]
    assert schemas.problems(main) == []
    main["spec"]["replikas"] = 3
    assert any("replikas" in problem for problem in schemas.problems(main))


def test_pod_security_levels() -> None:
    strict: dict[str, Any] = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "a", "emptyDir": {}}],
        "containers": [
            {"securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
        ],
    }
    assert audit.security(strict) == "restricted"
    changes: list[tuple[dict[str, Any], str]] = [
        (
            {"securityContext": {"runAsNonRoot": False, "seccompProfile": {"type": "RuntimeDefault"}}},
            "baseline",
        ),
        ({"securityContext": {"runAsNonRoot": True}}, "baseline"),
        ({"containers": [{"securityContext": {"capabilities": {"drop": ["ALL"]}}}]}, "baseline"),
        ({"hostNetwork": True}, "privileged"),
        ({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "privileged"),
        ({"containers": [{"securityContext": {"capabilities": {"add": ["IPC_LOCK"]}}}]}, "privileged"),
        ({"containers": [{"securityContext": {"privileged": True}}]}, "privileged"),
    ]
    for change, level in changes:
        assert audit.security({**strict, **change}) == level

"""The least rights with which every verb of the launcher works, kind by kind, and a Role of them.

Owns rights.json; tests/launcher/schedulers/kubernetes/test_applying.py tries verbs with them.
https://kubernetes.io/docs/reference/access-authn-authz/rbac/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.fabrics import FABRICS
from launcher.namedtuple import NamedTuple
from launcher.rendering import templates
from launcher.schedulers.kubernetes import kinds

if TYPE_CHECKING:
    from collections.abc import Collection

    from launcher.files.cluster import Cluster

QUEUES = ("kueue", "volcano", "coscheduling")
# what no run needs to start: a program in a pod of it, and a pod that mounts the claim of run folders
OPTIONAL = _EXEC, _CLAIM = "exec", "claim"
_DOMAIN, _DRA, _LEADER = "compute_domain", "dra", "leader"
_APPLIES = {"create", "patch"}


class Rule(NamedTuple):
    """Verbs on resources of an API group, and what they are for."""

    why: str
    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


def rules(needs: Collection[str]) -> list[Rule]:
    """The rules that every run needs, and those for `needs`, words of `every`."""
    rows = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))["rules"]
    chosen = [row for row in rows if not row["for"] or set(row["for"]) & set(needs)]
    return [Rule(r["why"], r["group"], tuple(r["resources"]), tuple(r["verbs"])) for r in chosen]


def needs(cluster: Cluster) -> list[str]:
    """What runs on a cluster file's cluster have of `rules`."""
    own = cluster.kubernetes
    queueing = own.queueing if own.queue or own.queueing != "kueue" else None
    domain = _DOMAIN if FABRICS[cluster.fabric].compute_domain and cluster.gpu else None
    dra = _DRA if own.adapters == "dra" else None
    claim = _CLAIM if own.runs else None
    leader = _LEADER if own.leader else None
    return [word for word in (own.kind, queueing, domain, dra, leader, _EXEC, claim) if word]


def every() -> list[str]:
    """All that there is to need."""
    return [*kinds.KINDS, *QUEUES, _DOMAIN, _DRA, _LEADER, *OPTIONAL]


def of_leader(needs: Collection[str]) -> list[Rule]:
    """The least rights of the pod that leads pipelines whose runs have `needs`: to submit, and to see how it ends."""
    own = [word for word in needs if word not in (_LEADER, *OPTIONAL)]
    return [
        # what is listed is what has the pods, whose end it looks for
        rule._replace(verbs=tuple(sorted(_APPLIES | ({"get"} if "list" in rule.verbs else set()))))
        for rule in rules(own)
        if "create" in rule.verbs
    ]


def role(needs: Collection[str], namespace: str, leader: str = "") -> str:
    """The Role, a RoleBinding and an optional ClusterRole, fit for `kubectl apply -f`.

    `leader`: the service account of the pod that leads pipelines, which gets a Role of its own.
    """
    return templates.text(
        "kubernetes/rbac.yaml.j2",
        rules=rules(needs),
        namespace=namespace,
        leader=leader,
        of_leader=of_leader(needs),
    )

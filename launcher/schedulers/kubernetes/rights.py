"""The least rights with which every verb of the launcher works, kind by kind, and a Role of them.

Owns rights.json; tests/launcher/schedulers/kubernetes/test_rights.py tries each verb with them, and with each taken
away. https://kubernetes.io/docs/reference/access-authn-authz/rbac/
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
FILES = "files"  # of a run: what no run needs to start
_DOMAIN = "compute_domain"


class Rule(NamedTuple):
    """Verbs on resources of an API group, and what they are for."""

    why: str
    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


def rules(needs: Collection[str]) -> list[Rule]:
    """The rules that every run needs, and those for `needs`: kinds, values of queueing, `compute_domain`, FILES."""
    rows = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))["rules"]
    chosen = [row for row in rows if not row["for"] or set(row["for"]) & set(needs)]
    return [Rule(r["why"], r["group"], tuple(r["resources"]), tuple(r["verbs"])) for r in chosen]


def needs(cluster: Cluster) -> list[str]:
    """What runs on a cluster file's cluster have of `rules`."""
    own = cluster.kubernetes
    queueing = own.queueing if own.queue or own.queueing != "kueue" else None
    domain = _DOMAIN if FABRICS[cluster.fabric].compute_domain and cluster.gpu else None
    return [word for word in (own.kind, queueing, domain, FILES) if word]


def every() -> list[str]:
    """All that there is to need."""
    return [*kinds.KINDS, *QUEUES, _DOMAIN, FILES]


def role(needs: Collection[str], namespace: str) -> str:
    """The Role, a RoleBinding and an optional ClusterRole, fit for `kubectl apply -f`."""
    return templates.text("kubernetes/rbac.yaml.j2", rules=rules(needs), namespace=namespace)

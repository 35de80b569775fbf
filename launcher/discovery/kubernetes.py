"""A namespace of a Kubernetes cluster, asked through the client that submits runs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from launcher.discovery.facts import TOPOLOGY, Claim, Kubernetes, Lack, Nodes, Taint
from launcher.files import kubernetes_syntax as quantities
from launcher.schedulers.kubernetes import api, kinds, rights

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOLDS = ("cpu", "memory", "pods", "ephemeral-storage", "attachable-volumes", "hugepages-")
# What tells nodes apart that could run the same job; everything else differs from node to node.
_LABELS = (
    "nvidia.com/gpu.product",
    "nvidia.com/gpu.memory",
    "nvidia.com/gpu.clique",
    "nvidia.com/mig.strategy",
    "amd.com/gpu.product-name",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/arch",
    "cloud.google.com/gke-accelerator",
)
_QUEUEING = {
    "kueue": "kueue.x-k8s.io",
    "volcano": "scheduling.volcano.sh",
    "coscheduling": "scheduling.x-k8s.io",
}
_DEVICES = "resource.k8s.io/v1"
_ENFORCED = "pod-security.kubernetes.io/enforce"


class _Asked:
    """A server, and what it refused."""

    def __init__(self, server: api.Server) -> None:
        self.server, self.lacks = server, list[Lack]()

    def get(self, what: str, path: str, where: str = "") -> dict[str, Any]:
        """What is at `path`; {} and one lack more when the server refuses. Raises Refusal when it does not answer."""
        try:
            return self.server.get(path)
        except api.Refusal as refusal:
            if refusal.status in {0, 401}:  # the same for every question
                raise
            self.lacks.append(Lack(what, refusal.problems[0].message, where))
            return {}

    def items(self, what: str, path: str, where: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get(what, path, where).get("items", [])
        return found


def learn(context: str | None = None, namespace: str | None = None) -> Kubernetes:
    """What the API server says to the context's user. Each refusal becomes a lack.

    Raises ToolMissingError without a kubeconfig, SubmitError when the server does not answer or knows no such user.
    """
    server = api.connect(context, "set KUBECONFIG, or name one of its contexts: --context NAME")
    return look(server, namespace or server.namespace)


def look(server: api.Server, space: str) -> Kubernetes:
    """What the server says of the namespace `space`."""
    asked = _Asked(server)
    version = asked.get("the version", "/version").get("gitVersion", "")
    core = f"/api/v1/namespaces/{space}"
    own = asked.get("the namespace's Pod Security", core, f"`kubectl get namespace {space} -o yaml`")
    groups = {
        g["name"]: g
        for g in asked.get("installed kinds", "/apis", "`kubectl api-resources`").get("groups", [])
    }
    queueing = tuple(name for name, group in _QUEUEING.items() if group in groups)
    nodes = asked.items("nodes: GPUs, CPUs, memory, network", "/api/v1/nodes", "`kubectl describe nodes`")
    classes = asked.items(
        "storage classes", "/apis/storage.k8s.io/v1/storageclasses", "`kubectl get storageclass`"
    )
    claims = asked.items("claims", f"{core}/persistentvolumeclaims", "`kubectl get pvc`")
    quotas = asked.items("quotas", f"{core}/resourcequotas", "`kubectl describe quota`")
    served = tuple(_kinds(groups))
    return Kubernetes(
        context=server.context,
        namespace=space,
        version=version,
        nodes=tuple(_alike(nodes)),
        kinds=served,
        queueing=queueing,
        queues=tuple(_queues(asked, groups, space)) if "kueue" in queueing else (),
        storage_classes=tuple((c["metadata"]["name"], c.get("provisioner", "")) for c in classes),
        device_classes=tuple(_device_classes(asked, groups)),
        claims=tuple(map(_claim, claims)),
        pod_security=own.get("metadata", {}).get("labels", {}).get(_ENFORCED, ""),
        quotas=tuple(row for quota in quotas for row in _quota(quota)),
        refused=tuple(_refused(asked, space, [*(name for name, _ in served), *rights.OPTIONAL])),
        lacks=tuple(asked.lacks),
    )


def _kinds(groups: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, API version) of those whose group the server has in the version that is rendered."""
    there = {v["groupVersion"] for group in groups.values() for v in group.get("versions", [])}
    return [(name, kind.api) for name, kind in kinds.KINDS.items() if kind.api in there]


def _queues(asked: _Asked, groups: dict[str, Any], space: str) -> list[str]:
    version = groups[_QUEUEING["kueue"]]["preferredVersion"]["groupVersion"]
    path = f"/apis/{version}/namespaces/{space}/localqueues"
    return [q["metadata"]["name"] for q in asked.items("Kueue's queues", path, "`kubectl get localqueues`")]


def _device_classes(asked: _Asked, groups: dict[str, Any]) -> list[str]:
    """Of Kubernetes 1.34 and newer; what older ones have of DRA was served in other versions."""
    there = {v["groupVersion"] for v in groups.get("resource.k8s.io", {}).get("versions", [])}
    if _DEVICES not in there:
        return []
    found = asked.items(
        "classes of devices that are claimed", f"/apis/{_DEVICES}/deviceclasses", "`kubectl get deviceclass`"
    )
    return [entry["metadata"]["name"] for entry in found]


def _alike(nodes: list[dict[str, Any]]) -> list[Nodes]:
    """Nodes in groups of like ones, the largest group first."""
    counts = Counter(map(_node, nodes))
    return [kind._replace(number=count) for kind, count in counts.most_common()]


def _node(node: dict[str, Any]) -> Nodes:
    amounts, labels = node.get("status", {}).get("allocatable", {}), node["metadata"].get("labels", {})
    shown = [(key, labels[key]) for key in _LABELS if key in labels]
    shown += [(key, "") for key in TOPOLOGY if key in labels]
    taints = [
        Taint(t.get("key", ""), t.get("value", ""), t.get("effect", ""))
        for t in node.get("spec", {}).get("taints", [])
        if not t.get("key", "").startswith("node.kubernetes.io/")  # of a node's state, which passes
    ]
    return Nodes(
        number=1,
        cpus=int(quantities.number(amounts.get("cpu", "0"))),
        # rounded: the kubelets of like hosts differ by a few MiB
        memory=int(quantities.number(amounts.get("memory", "0"))) // 2**30 * 2**30,
        devices=tuple(
            (key, int(quantities.number(amount)))
            for key, amount in sorted(amounts.items())
            if not key.startswith(_HOLDS) and quantities.number(amount) > 0
        ),
        labels=tuple(shown),
        taints=tuple(taints),
    )


def _claim(claim: dict[str, Any]) -> Claim:
    spec = claim.get("spec", {})
    size = spec.get("resources", {}).get("requests", {}).get("storage", "")
    return Claim(claim["metadata"]["name"], size, "ReadWriteMany" in spec.get("accessModes", []))


def _quota(quota: dict[str, Any]) -> list[tuple[str, str, str]]:
    status = quota.get("status", {})
    used = status.get("used", {})
    return [(name, used.get(name, "0"), hard) for name, hard in status.get("hard", {}).items()]


def _refused(asked: _Asked, space: str, needs: Sequence[str]) -> list[str]:
    """`missing`; [] and one lack more where the server does not say."""
    try:
        return missing(asked.server, space, needs)
    except api.Refusal as refusal:
        if refusal.status in {0, 401}:
            raise
        where = "`kubectl auth can-i --list`"
        asked.lacks.append(Lack("what you may do", refusal.problems[0].message, where))
        return []


def missing(server: api.Server, namespace: str, needs: Sequence[str]) -> list[str]:
    """The launcher's rights that the user does not have there, such as `create jobs.batch`.

    https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access
    """
    return [
        f"{verb} {resource}{'.' + rule.group if rule.group else ''}"
        for rule in rights.rules(needs)
        for resource in rule.resources
        for verb in rule.verbs
        if not _may(server, namespace, verb, (rule.group, resource))
    ]


def _may(server: api.Server, namespace: str, verb: str, what: tuple[str, str]) -> bool:
    group, resource = what
    name, _, part = resource.partition("/")
    attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": part}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {k: v for k, v in attributes.items() if v}},
    }
    answer = server.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)[0]
    return bool(answer.get("status", {}).get("allowed"))

"""Facts to the text of a cluster file. Pure.

Owns which hosts a file is for, which of the facts become fields, and which stay comments: a field is written only where
there is one answer. The text is templates/clusters/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.discovery import probed
from launcher.discovery.facts import TOPOLOGY
from launcher.errors import SpecError, did_you_mean
from launcher.fabrics import FABRICS
from launcher.namedtuple import NamedTuple
from launcher.rendering import templates
from launcher.sizing import gpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.discovery.facts import Gpus, Hosts, Kubernetes, Lack, Machine, Nodes, Partition, Slurm
    from launcher.files.measured import Measured

_MIB = 2**20
# Extended resources of nodes that carry RDMA, and the fabrics that ask for them with the same amount.
_RDMA = ("rdma/", "vpc.amazonaws.com/efa", "nvidia.com/rdma", "aliyun/erdma", "openshift.io/", "intel.com/")
# Where a device and a kind of machine leave one fabric: resource and amount on a node → fabric.
_FABRICS = {
    ("vpc.amazonaws.com/efa", "p4d.24xlarge"): "efa-p4d",
    ("vpc.amazonaws.com/efa", "p4de.24xlarge"): "efa-p4d",
    ("vpc.amazonaws.com/efa", "p5.48xlarge"): "efa-p5",
    ("vpc.amazonaws.com/efa", "p5e.48xlarge"): "efa-p5",
    ("vpc.amazonaws.com/efa", "p5en.48xlarge"): "efa-p5en",
    ("vpc.amazonaws.com/efa", "p6-b200.48xlarge"): "efa-p6",
    ("vpc.amazonaws.com/efa", "p6-b300.48xlarge"): "efa-p6-b300",
    ("vpc.amazonaws.com/efa", "p6e-gb200.36xlarge"): "efa-p6e-gb200",
    ("aliyun/erdma", ""): "alibaba-erdma",
}
_INSTANCE = "node.kubernetes.io/instance-type"
_PRODUCTS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "cloud.google.com/gke-accelerator")
_CLIQUE = "nvidia.com/gpu.clique"  # the hosts of one NVLink domain
_GPUS = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915")


class Card(NamedTuple):
    """The GPU of the hosts as it was `seen`, and its name in the table: empty where there are several, or none."""

    name: str
    seen: str
    candidates: tuple[str, ...]


def of_slurm(facts: Slurm, partition: str | None = None, found: Measured | None = None) -> str:
    """A file for the hosts of `partition`, else of the default one. Raises SpecError for one that is not there.

    `found`, here and below: what was measured of them.
    """
    chosen = _hosts(facts, partition)
    there = {p.name: p for p in facts.partitions}
    same = [h for h in facts.hosts if h.partition == chosen.partition and h != chosen]
    own = _most(chosen.gpus)
    return templates.text(
        "clusters/slurm.yaml.j2",
        facts=facts,
        hosts=chosen,
        gpus=own,
        card=_card(own.type) if own else None,
        # RealMemory is 1 where a site leaves it out: https://slurm.schedmd.com/slurm.conf.html#OPT_RealMemory
        memory=f"{chosen.memory // _MIB}MiB" if chosen.memory > _MIB else None,
        partition=there.get(chosen.partition),
        mixed=len(chosen.gpus) > 1,
        # the partition has other GPUs too: without their type, a job would get either
        typed=bool(own and own.type and (len(chosen.gpus) > 1 or any(h.gpus != chosen.gpus for h in same))),
        others=[(h, _limits(there.get(h.partition))) for h in facts.hosts if h != chosen],
        limits=_limits(there.get(chosen.partition)),
        account=facts.accounts[0] if len(facts.accounts) == 1 else None,
        seen=probed.seen(found),
    )


def _hosts(facts: Slurm, partition: str | None) -> Hosts:
    """The hosts that the file is for: of those of the partition, the most with the most GPUs."""
    names = list(dict.fromkeys(h.partition for h in facts.hosts))
    if partition is not None and partition not in names:
        raise SpecError(f"there is no partition {partition!r} here", hint=did_you_mean(partition, names))
    default = next((p.name for p in facts.partitions if p.default and p.name in names), names[0])
    among = [h for h in facts.hosts if h.partition == (partition or default)]
    return max(among, key=lambda h: (sum(g.number for g in h.gpus), h.number))


def _most(every: Sequence[Gpus]) -> Gpus | None:
    return max((g for g in every if g.number), key=lambda g: g.number, default=None)  # gres may say gpu:0


def _card(word: str) -> Card:
    names = gpus.named(word) if word else []
    return Card(names[0] if len(names) == 1 else "", word, tuple(names))


def _limits(partition: Partition | None) -> str:
    """A partition's limits in words."""
    if partition is None:
        return ""
    said = [
        f"walltime {partition.max_time}" if partition.max_time else "",
        f"{partition.max_nodes} hosts" if partition.max_nodes else "",
        f"QOS {partition.qos}" if partition.qos else "",
        f"preemption {partition.preempt.lower()}" if partition.preempt not in {"", "OFF"} else "",
        f"accounts {partition.accounts}" if partition.accounts else "",
        f"state {partition.state}" if partition.state not in {"", "UP"} else "",
    ]
    return ", ".join(filter(None, said))


def of_kubernetes(facts: Kubernetes, found: Measured | None = None) -> str:
    """A file for the nodes with the most GPUs, of which there are most."""
    nodes = max(facts.nodes, key=_preferred, default=None)
    resource = next((g for g in _GPUS if nodes and nodes.device.get(g)), "")
    labels = nodes.label if nodes else {}
    product = next((labels[key] for key in _PRODUCTS if key in labels), "")
    rdma = [(k, n) for k, n in (nodes.devices if nodes else ()) if k.startswith(_RDMA)]
    shared = [claim for claim in facts.claims if claim.shared]
    return templates.text(
        "clusters/kubernetes.yaml.j2",
        facts=facts,
        nodes=nodes,
        slots=nodes.device[resource] if nodes and resource else 1,
        resource=resource,
        card=_card(product) if resource else None,
        memory=f"{nodes.memory // _MIB}MiB" if nodes else "",
        rdma=rdma,
        fabric=_fabric(rdma, labels.get(_INSTANCE, "")),
        claimed="" if rdma else _claimed(facts.device_classes, labels.get(_INSTANCE, "")),
        taints=[t for t in (nodes.taints if nodes else ()) if t.key not in _GPUS],
        selector=_selector(nodes, facts.nodes),
        topology=[key for key in (*TOPOLOGY, _CLIQUE) if key in labels],
        others=[(n, _described(n)) for n in facts.nodes if n != nodes],
        runs=shared[0].name if len(shared) == 1 else None,
        queue=facts.queues[0] if len(facts.queues) == 1 else None,
        kind=next((name for name, _ in facts.kinds if name == "job"), None),
        seen=probed.seen(found),
    )


def _preferred(nodes: Nodes) -> tuple[int, bool, int]:
    """The most GPUs, then what is not the cluster's own control plane, then the most nodes."""
    control = any(t.key.startswith("node-role.kubernetes.io/") for t in nodes.taints)
    return sum(nodes.device.get(g, 0) for g in _GPUS), not control, nodes.number


def _fabric(rdma: Sequence[tuple[str, int]], instance: str) -> str:
    """The one fabric that a device of the nodes and their machine type leave; '' where there are several, or none."""
    found = {_FABRICS.get((key, instance)) or _FABRICS.get((key, "")) for key, _ in rdma} - {None}
    return str(found.pop()) if len(found) == 1 else ""


def _claimed(classes: Sequence[str], instance: str) -> str:
    """The fabric of a machine type whose adapters a DRA driver hands out, or ''."""
    of_type = (FABRICS[name] for (_, machine), name in _FABRICS.items() if machine == instance)
    return next((f.name for f in of_type if f.device_class and f.device_class.name in classes), "")


def _selector(nodes: Nodes | None, every: Sequence[Nodes]) -> dict[str, str]:
    """The label that tells these nodes from others with GPUs; {} where there are no others."""
    others = [n for n in every if n != nodes and any(n.device.get(g) for g in _GPUS)]
    for key in (*_PRODUCTS, _INSTANCE):
        own = nodes.label.get(key) if nodes else None
        if own and others and all(n.label.get(key) != own for n in others):
            return {key: own}
    return {}


def _described(nodes: Nodes) -> str:
    name = next((nodes.label[k] for k in (*_PRODUCTS, _INSTANCE) if k in nodes.label), "")
    amounts = [f"{n} {k}" for k, n in nodes.devices]
    size = f"{nodes.cpus} CPUs, {nodes.memory // 2**30} GiB"
    return ", ".join(filter(None, [name, size, *amounts]))


def of_machine(facts: Machine, found: Measured | None = None) -> str:
    """A file for this machine."""
    return templates.text(
        "clusters/local.yaml.j2",
        facts=facts,
        card=facts.cards[0] if len(facts.cards) == 1 else None,
        slots=facts.cards[0][2] if len(facts.cards) == 1 else min(facts.cpus, 2),
        memory=f"{facts.memory // _MIB}MiB",
        disks=[(path, f"{size // 2**30} GiB") for path, size in facts.disks],
        seen=probed.seen(found),
    )


def lacks(facts: Slurm | Kubernetes | Machine) -> tuple[Lack, ...]:
    """What the file does not say, because it was refused."""
    return facts.lacks

"""What is learned of a cluster. Owns the nouns; who asks are the modules beside this one."""

from __future__ import annotations

from launcher.namedtuple import NamedTuple

# Labels of nodes whose value names a rack or block: their presence is what counts.
TOPOLOGY = (
    "cloud.google.com/gce-topology-block",
    "cloud.google.com/gce-topology-subblock",
    "topology.k8s.aws/network-node-layer-3",
    "oci.oraclecloud.com/rdma.local_block_id",
    "ib/torset",
    "backend.coreweave.cloud/leafgroup",
)


class Lack(NamedTuple):
    """Something that could not be learned, why, and where a person can look."""

    what: str
    why: str
    where: str = ""


class Gpus(NamedTuple):
    """GPUs of a host: what the scheduler calls their type ('' where it does not), and how many."""

    type: str
    number: int


class Hosts(NamedTuple):
    """Hosts of a Slurm partition that are alike. `memory` is in bytes."""

    partition: str
    number: int
    cpus: int
    memory: int
    gpus: tuple[Gpus, ...] = ()


class Partition(NamedTuple):
    """A partition's limits, in Slurm's own words; '' where it has none."""

    name: str
    default: bool = False
    state: str = ""
    max_time: str = ""
    max_nodes: str = ""
    preempt: str = ""
    qos: str = ""
    accounts: str = ""


class Qos(NamedTuple):
    """A quality of service and its limits, in Slurm's own words."""

    name: str
    max_wall: str = ""
    max_tres: str = ""
    max_tres_per_user: str = ""
    group_tres: str = ""


class Slurm(NamedTuple):
    """A Slurm cluster, as a user of this machine sees it."""

    name: str
    version: str
    hosts: tuple[Hosts, ...]
    partitions: tuple[Partition, ...] = ()
    accounts: tuple[str, ...] = ()
    qos: tuple[Qos, ...] = ()
    accounting: bool | None = None
    preempt_type: str = ""
    preempt_mode: str = ""
    requeue: bool | None = None
    topology: str = ""
    containers: tuple[tuple[str, str], ...] = ()  # a value of `slurm.container`, and how it was seen
    lacks: tuple[Lack, ...] = ()


class Taint(NamedTuple):
    key: str
    value: str
    effect: str


class Nodes(NamedTuple):
    """Nodes of a Kubernetes cluster that are alike: allocatable amounts of one, and the labels that tell of it.

    `memory` is in bytes; `devices` are the extended resources.
    """

    number: int
    cpus: int
    memory: int
    devices: tuple[tuple[str, int], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()

    @property
    def label(self) -> dict[str, str]:
        return dict(self.labels)

    @property
    def device(self) -> dict[str, int]:
        return dict(self.devices)


class Claim(NamedTuple):
    """A PersistentVolumeClaim. `shared`: many nodes may write to it (ReadWriteMany)."""

    name: str
    size: str
    shared: bool


class Kubernetes(NamedTuple):
    """A namespace of a Kubernetes cluster, as the context's user sees it."""

    context: str
    namespace: str
    version: str
    nodes: tuple[Nodes, ...] = ()
    kinds: tuple[
        tuple[str, str], ...
    ] = ()  # a value of `kubernetes.kind`, and the API version that is served
    queueing: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    storage_classes: tuple[tuple[str, str], ...] = ()  # name, provisioner
    device_classes: tuple[str, ...] = ()  # what DRA drivers hand out
    claims: tuple[Claim, ...] = ()
    pod_security: str = ""
    quotas: tuple[tuple[str, str, str], ...] = ()  # resource, used, hard
    refused: tuple[str, ...] = ()  # rights of the launcher that the user does not have: "create batch/jobs"
    lacks: tuple[Lack, ...] = ()


class Machine(NamedTuple):
    """This machine. Bytes; `cards` is (what a cluster file says of a GPU, its model, how many)."""

    cpus: int
    memory: int
    cpu_level: str = ""
    cards: tuple[tuple[str, str, int], ...] = ()
    disks: tuple[tuple[str, int], ...] = ()  # folder, bytes of its file system
    containers: tuple[str, ...] = ()
    lacks: tuple[Lack, ...] = ()

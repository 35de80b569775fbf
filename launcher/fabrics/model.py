"""The parts a fabric is described with.

Owns the nouns; the values are in the modules beside this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Variable(NamedTuple):
    """An environment variable, why it has its value, and a link to who says so (empty: nobody else)."""

    name: str
    value: str
    why: str
    source: str


class Forbidden(NamedTuple):
    """A variable that does harm on a fabric. A name that ends in `*` stands for all that begin with it."""

    name: str
    why: str
    source: str

    def matches(self, name: str) -> bool:
        return name.startswith(self.name[:-1]) if self.name.endswith("*") else name == self.name


class HostPath(NamedTuple):
    """A path of the host that the container must see."""

    host: str
    inside: str
    readonly: bool = True


class Sidecar(NamedTuple):
    """A program that must run beside the ranks in every pod, from before they start until they end.

    On Kubernetes this is an init container with `restartPolicy: Always`: a plain second container would keep the
    pod, and so the job, running for ever (https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/).
    """

    name: str
    image: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    mounts: tuple[HostPath, ...]
    capabilities: tuple[str, ...]
    source: str


class DeviceClass(NamedTuple):
    """A DeviceClass whose devices a pod claims where a DRA driver hands them out, `instead_of` an extended resource.

    https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
    """

    name: str
    instead_of: str
    source: str


class Bandwidth(NamedTuple):
    """Bus bandwidth of `all_reduce_perf` on healthy hosts, in GB/s (10^9 bytes), for a message of `size`.

    `limit`: below it the vendor calls a host broken. Otherwise it is a run the vendor published, of which a
    healthy cluster may fall a little short. Bus bandwidth is defined at
    https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
    """

    gb_per_s: float
    hosts: int
    size: str
    limit: bool
    source: str


class Fabric(NamedTuple):
    """A network between hosts, and what a job on it needs."""

    name: str
    title: str
    sources: tuple[str, ...]
    checked: str = ""  # the day on which its values were last compared with its sources
    vendors: tuple[str, ...] = ("nvidia",)  # whose GPUs: RCCL reads NCCL's names, oneCCL does not
    # Empty means every scheduler. Paths and interfaces of one cloud differ between its Slurm images and its
    # Kubernetes nodes; then there is a fabric for each.
    schedulers: tuple[str, ...] = ()
    variables: tuple[Variable, ...] = ()
    # The exact name of NCCL's network (NCCL_NET): without its plugin or devices NCCL then stops, instead of going
    # on over TCP.
    net: str | None = None
    # Shell lines to run before the variables are exported, so that the variables win.
    script: tuple[str, ...] = ()
    # Variables that begin with one of these mean something only here (and on fabrics that name them too).
    owns: tuple[str, ...] = ()
    forbidden: tuple[Forbidden, ...] = ()
    # Device paths for a container on a host. On Kubernetes a device plugin (`resources`) brings them, except in a
    # `privileged` pod, which mounts them.
    devices: tuple[str, ...] = ()
    mounts: tuple[HostPath, ...] = ()
    bare: bool = False  # a path has the job's number, which no mount of a container can name
    memlock: bool = False  # network memory is pinned: the limit on locked memory must be unlimited
    # Kubernetes alone. Resources are for one host.
    resources: Mapping[str, int | str] = {}
    device_class: DeviceClass | None = None
    annotations: Mapping[str, str] = {}
    capabilities: tuple[str, ...] = ()
    sidecars: tuple[Sidecar, ...] = ()
    host_network: bool = False
    privileged: bool = False
    # Pods ask for a channel of a ComputeDomain of the run's own, with which NVIDIA's DRA driver joins the hosts'
    # NVLink: https://github.com/NVIDIA/k8s-dra-driver-gpu. On Slurm, switch/nvidia_imex or a prolog does it.
    compute_domain: bool = False
    bandwidth: Bandwidth | None = None


def manual(name: str) -> str:
    """The link to a variable in NCCL's user guide."""
    anchor = name.lower().replace("_", "-")
    return f"https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#{anchor}"

"""The cluster file: where jobs run.

Owns field names, their ranges and help texts; what follows from the fields together is `planning`'s.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from launcher import exit_codes
from launcher.files import kubernetes_syntax
from launcher.files.fields import (
    EXPORTED_SCHEMA,
    TEXT_SCHEMA,
    AbsolutePath,
    Bytes,
    Count,
    Home,
    Longest,
    Misplaced,
    Pattern,
    Range,
    Read,
    Seconds,
    Shorthand,
    Text,
    Then,
    as_text,
    exported,
    field,
    follows,
)
from launcher.files.gpu import GpuType, figures
from launcher.files.shared import Environment, Notify
from launcher.frozen import dataclass
from launcher.sizing.gpus import Gpu

KubernetesName = Annotated[str, Read(follows(kubernetes_syntax.subdomain))]


@dataclass(frozen=True, kw_only=True)
class Mount:
    host: AbsolutePath | None = field(
        None, "Path on the host (Slurm and this machine; hostPath on Kubernetes)."
    )
    claim: KubernetesName | None = field(None, "PersistentVolumeClaim, on Kubernetes.")
    readonly: bool = field(False, "Ranks may only read it.")
    local: bool = field(False, "On the host's own disk: fit for NVMe offload, not for checkpoints.")

    def __post_init__(self) -> None:
        if self.host is None and self.claim is None:
            raise ValueError("comes from nowhere; write the host's path, or {claim: NAME}")


@dataclass(frozen=True, kw_only=True)
class Nvme:
    path: AbsolutePath = field(description="A folder on each host's own NVMe disks.")
    size: Bytes = field(description="How much of it one job may fill.")


@dataclass(frozen=True, kw_only=True)
class GpuHour:
    """What an hour of a slot costs: `report` sums it up."""

    price: Annotated[float, Range(0, 10**6)] | None = field(None, "Money for an hour of one slot.")
    currency: Annotated[str, Pattern("[A-Z]{3}", "write its three letters (ISO 4217), such as EUR")] = field(
        "USD", "Of the price."
    )
    watts: Annotated[float, Range(0, 10**6)] | None = field(
        None, "Power that one slot draws, with its part of host and cooling."
    )


def _costs(value: object) -> object:
    """What a file says of costs; what says nothing of them is a mistake."""
    if isinstance(value, dict) and not {"price", "watts"} & value.keys():
        raise ValueError("has neither `price` nor `watts`; write {price: 2.1, currency: USD, watts: 700}")
    if isinstance(value, dict) and "currency" in value and "price" not in value:
        raise ValueError("has a currency and no price; add `price:`, or leave `currency` out")
    return value


@dataclass(frozen=True, kw_only=True)
class Slurm:
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    container: Literal["none", "pyxis", "apptainer", "oci", "charliecloud"] = field(
        "none",
        "How ranks enter the image; oci and charliecloud want an unpacked one, as a folder.",
    )
    sbatch: dict[str, Any] = field(dict, "Any other sbatch option: {constraint: h100}.")
    export: Annotated[Any, Read(exported, EXPORTED_SCHEMA)] | None = field(
        None,
        "Variables of the submitting shell that travel: none, all, or their names; default: HOME, PATH …",
    )
    setup: list[str] = field(list, "Shell lines before the job starts: module load …")
    signal_seconds: Annotated[int, Range(10, 65535)] = field(
        120, "Seconds before the walltime at which ranks get the signal to save."
    )
    secrets: Home = field("~/.secrets", "Folder of files (mode 0600), one a secret, read inside the job.")
    floor: Annotated[float, Range(0)] | None = field(
        None,
        "Bus bandwidth (GB/s) that preflight asks for, instead of the fabric's or half of `bandwidth`; 0: none.",
    )


def _whole(resources: dict[str, str]) -> dict[str, str]:
    for name, amount in resources.items():
        try:
            kubernetes_syntax.resource(name, amount)
        except ValueError as error:
            raise Misplaced(str(error), name) from None
    return resources


LabelKey = Annotated[str, Read(follows(kubernetes_syntax.key))]


def _device(name: str) -> str:
    kubernetes_syntax.resource(name, "1")
    if "/" not in name:
        raise ValueError(f"{name!r} is no device; write domain.example/name, such as nvidia.com/gpu")
    return name


LabelValue = Annotated[str, Read(follows(kubernetes_syntax.value), TEXT_SCHEMA)]


Quantity = Annotated[str, Read(follows(kubernetes_syntax.quantity), TEXT_SCHEMA)]


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """Kubernetes' own keys: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/"""

    key: LabelKey | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: Annotated[int, Range(0)] | None = None

    def __post_init__(self) -> None:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value; leave `value` out")
        if self.key is None and self.operator != "Exists":
            raise ValueError("has no key; add `key:`, or `operator: Exists` for every taint")
        if self.tolerationSeconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs `effect: NoExecute`")


@dataclass(frozen=True, kw_only=True)
class Topology:
    label: LabelKey = field(description="Node label of a rack or block: a run's pods stay in one of them.")
    required: bool = field(False, "Required: stay pending rather than spread over domains.")
    exclusive: bool = field(False, "No other run in it (jobset).")
    tier: Count | None = field(None, "Volcano: the highest tier of its network topology.")


@dataclass(frozen=True, kw_only=True)
class Serve:
    port: Annotated[int, Range(1, 65535)] = field(8000, "Where rank 0 of a group listens.")
    health: Annotated[str, Read(follows(kubernetes_syntax.http_path))] = field(
        "/health", "HTTP path that answers 200 when it is ready."
    )
    replicas: Count = field(1, "Groups of `nodes` hosts.")


@dataclass(frozen=True, kw_only=True)
class Leader:
    service_account: KubernetesName = field(
        description="Of the pod: `cluster rbac --cluster FILE` prints its rights."
    )
    image: Text | None = field(
        None, "Its image, with Python 3.10 or newer; default: that of the first stage."
    )


@dataclass(frozen=True, kw_only=True)
class Kubernetes:
    namespace: Annotated[str, Read(follows(kubernetes_syntax.label))] | None = field(
        None, "Default: that of the kubeconfig's context."
    )
    context: str | None = field(None, "kubeconfig context; default: the current one.")
    kind: Literal["job", "jobset", "trainjob", "mpijob", "pytorchjob", "leaderworkerset"] = field(
        "job", "Which object runs the pods; all but job need their controller in the cluster."
    )
    trainer: Annotated[Literal["2.0", "2.1", "2.2"], Read(as_text, TEXT_SCHEMA)] = field(
        "2.2", "trainjob: version of Kubeflow Trainer; 2.2 also for newer ones."
    )
    runtime: KubernetesName | None = field(
        None,
        "trainjob: a ClusterTrainingRuntime such as torch-distributed; without it a run brings its own.",
    )
    leader_first: bool = field(False, "jobset: other hosts start when the first one is ready.")
    serve: Serve = field(Serve, "leaderworkerset: how the model is reached.")
    queueing: Literal["kueue", "volcano", "coscheduling"] = field(
        "kueue", "What admits a run's pods together; kueue does when `queue` is set."
    )
    queue: LabelValue | None = field(None, "Queue: Kueue's LocalQueue, Volcano's Queue.")
    queue_priority: LabelValue | None = field(None, "Kueue's WorkloadPriorityClass.")
    priority_class: KubernetesName | None = field(None, "PriorityClass of the pods.")
    scheduler: KubernetesName | None = field(None, "schedulerName, if not that of `queueing`.")
    topology: Annotated[Topology, Shorthand("label")] | None = field(
        None, "Keeps a run within one rack or block: a node label."
    )
    leader: Annotated[Leader, Shorthand("service_account")] | None = field(
        None,
        "A pod with this service account submits the stages of pipelines, and jobs --after others: nobody has to stay.",
    )
    runs: KubernetesName | None = field(
        None, "PersistentVolumeClaim for run folders; without it they end with the pods."
    )
    cpus: Quantity | None = field(None, "CPUs a pod asks for; default: 90 % of the host's.")
    memory: Bytes | None = field(None, "Memory limit of a pod; default: 90 % of the host's.")
    shm: Bytes | None = field(None, "Size of /dev/shm, part of `memory`; default: by the plan.")
    gpu_resource: Annotated[LabelKey, Then(_device)] | None = field(
        None,
        "What a GPU is called, one a slot: nvidia.com/mig-1g.10gb, gpu.intel.com/i915 …; default: nvidia.com/gpu, or "
        "amd.com/gpu for AMD's.",
    )
    resources: Annotated[dict[LabelKey, Quantity], Then(_whole)] = field(
        dict, "More resources of a pod, such as rdma/ib: 8."
    )
    adapters: Literal["plugin", "dra"] = field(
        "plugin",
        "How pods get the adapters of EFA: plugin, counted by a device plugin; dra, claimed from the EFA DRA driver "
        "(Kubernetes 1.34 or newer).",
    )
    node_selector: dict[LabelKey, LabelValue] = field(dict)
    tolerations: list[Toleration] = field(list)
    affinity: dict[Literal["nodeAffinity", "podAffinity", "podAntiAffinity"], dict[str, Any]] = field(
        dict, "Kubernetes' own keys."
    )
    labels: dict[LabelKey, LabelValue] = field(dict, "More labels of every object.")
    annotations: dict[LabelKey, Text] = field(
        dict, "More annotations of the pods, such as secondary networks."
    )
    image_pull_secrets: list[KubernetesName] = field(list)
    service_account: KubernetesName | None = field(None, "Its token is never mounted.")
    user: Annotated[int, Range(0, 2**31 - 1)] = field(10001, "UID the ranks run as.")
    group: Annotated[int, Range(0, 2**31 - 1)] = field(10001, "GID the ranks run as.")
    memlock: Literal["capability", "node"] = field(
        "capability",
        "How RDMA may pin memory: capability (root with IPC_LOCK), or node: the node sets no limit.",
    )
    pod_patch: dict[Literal["metadata", "spec"], dict[str, Any]] = field(
        dict,
        "Kubernetes' own keys, merged into every pod (strategic merge): init containers, runtimeClassName, claims …",
    )
    fail_on: Annotated[list[Annotated[int, Range(1, 255)]], Longest(200)] = field(
        lambda: exit_codes.with_restart("never"),
        "Exit codes that end the run at once: bad input, loss not finite, no run folder, out of memory.",
    )
    wait: Seconds = field(30 * 60, "How long first hosts wait for the last.")
    floor: Annotated[float, Range(0)] | None = field(
        None,
        "Bus bandwidth (GB/s) that preflight asks for, instead of the fabric's or half of `bandwidth`; 0: none.",
    )
    grace_seconds: Count = field(300, "From SIGTERM to SIGKILL: longer than a checkpoint takes.")


@dataclass(frozen=True, kw_only=True)
class Local:
    container: Literal["none", "docker", "podman"] = "none"
    secrets: Home = field("~/.secrets", "Folder of files (mode 0600), one a secret.")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where it runs."""

    gpu: Annotated[GpuType, Shorthand("name")] | None = field(
        None,
        "GPU type, such as h100-80gb, or {name: …, memory: …, capability: …} of one that the table lacks; absent: "
        "ranks run on the CPU.",
    )
    slots: Annotated[int, Range(1, 9999)] = field(description="Ranks per host: its GPUs, or CPU processes.")
    hosts: Count | None = field(None, "How many hosts there are.")
    cpus: Count | None = field(None, "CPU cores of a host.")
    memory: Bytes | None = field(None, "Memory of a host.")
    cpu_level: Literal["x86-64-v2", "x86-64-v3", "x86-64-v4"] | None = field(
        None, "What a host's processor can do (v3: AVX2, v4: AVX-512); `doctor` shows it."
    )
    nvme: Nvme | None = field(None, "A host's own NVMe disks, for offload.")
    bandwidth: Count | None = field(
        None, "Gb/s that one host sends over the fabric, all its adapters together."
    )
    gpu_hour: Annotated[GpuHour, Read(_costs)] = field(
        GpuHour, "What an hour of a slot costs, {price: 2.1, currency: USD, watts: 700}, for `report`."
    )
    fabric: str = field("tcp", "The network between hosts: see `python -m launcher env`.")
    interface: Text | None = field(None, "Network interface of the bootstrap traffic, such as eth0.")
    image: Text = field(
        "deepspeed-train", "Container image; of ours without a tag, the one of docker/'s contents."
    )
    deepspeed_version: (
        Annotated[
            str,
            Read(as_text, TEXT_SCHEMA),
            Pattern(r"[0-9]+[.][0-9]+([.][0-9a-z.+]+)?", "write it as 0.18.9 or 0.18"),
        ]
        | None
    ) = field(
        None,
        "DeepSpeed of the image or environment, if not the launcher's own: its keys are checked against it.",
    )
    image_python: Text | None = field(
        None, "The Python of an image of your own, 3.10 or newer; default: python3, unless the image is ours."
    )
    python: Text | None = field(
        None,
        "Ranks' Python without a container: an interpreter, a venv, or a conda environment by path or name.",
    )
    scratch: AbsolutePath = field("/tmp", "A folder on each host's own disk, for caches.")
    data_cache: AbsolutePath | None = field(
        None,
        "A folder that all hosts share, for tokenized texts (DATA_CACHE); default: data/ in each run's folder.",
    )
    mounts: dict[AbsolutePath, Annotated[Mount, Shorthand("host")]] = field(
        dict,
        "Path inside → path on the host, or {host: …, claim: …, readonly: …, local: …}.",
    )
    env: Environment = field(dict, "Environment variables of this site.")
    notify: list[Notify] = field(
        list, "Who is told that a run started, ended, failed …: {webhook: {secret: team-url}, on: [failure]}."
    )
    metrics_port: Annotated[int, Range(1024, 65535)] | None = field(
        None, "Each host's node entry answers Prometheus on this port, at /metrics; absent: it does not."
    )
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()
    local: Local = Local()

    @property
    def card(self) -> Gpu | None:
        """The figures of the hosts' GPU, the table's or the file's; None where ranks run on the CPU."""
        return figures(self.gpu) if self.gpu else None

    @property
    def gpu_name(self) -> str | None:
        """What the file calls it."""
        return self.gpu.name if self.gpu else None

"""The cluster file: where jobs run.

Owns field names, their ranges and help texts; what follows from the fields together is `planning`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from launcher import exit_codes
from launcher.files import kubernetes_syntax
from launcher.files.fields import AbsolutePath, Bytes, Count, Model, Name, OrText, Seconds, Text, as_text
from launcher.files.shared import Environment

if TYPE_CHECKING:
    from collections.abc import Callable


class Mount(Model):
    host: AbsolutePath | None = Field(
        None, description="Path on the host (Slurm and this machine; hostPath on Kubernetes)."
    )
    claim: Name | None = Field(None, description="PersistentVolumeClaim, on Kubernetes.")
    readonly: bool = Field(False, description="Ranks may only read it.")
    local: bool = Field(
        False, description="On the host's own disk: fit for NVMe offload, not for checkpoints."
    )

    @model_validator(mode="after")
    def _somewhere(self) -> Mount:
        if self.host is None and self.claim is None:
            raise ValueError("comes from nowhere; write the host's path, or {claim: NAME}")
        return self


class Nvme(Model):
    path: AbsolutePath = Field(description="A folder on each host's own NVMe disks.")
    size: Bytes = Field(description="How much of it one job may fill.")


class Slurm(Model):
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    container: Literal["none", "pyxis", "apptainer", "oci", "charliecloud"] = Field(
        "none",
        description="How ranks enter the image; oci and charliecloud want an unpacked one, as a folder.",
    )
    sbatch: dict[str, Any] = Field(
        default_factory=dict, description="Any other sbatch option: {constraint: h100}."
    )
    setup: list[str] = Field(
        default_factory=list, description="Shell lines before the job starts: module load …"
    )
    signal_seconds: Annotated[int, Field(ge=10, le=65535)] = Field(
        120, description="Seconds before the walltime at which ranks get the signal to save."
    )
    secrets: str = Field(
        "~/.secrets", description="Folder of files (mode 0600), one a secret, read inside the job."
    )
    floor: Annotated[float, Field(ge=0, strict=False)] | None = Field(
        None, description="Bus bandwidth (GB/s) that preflight asks for, instead of the fabric's; 0: none."
    )


def _follows(rule: Callable[[str], str]) -> BeforeValidator:
    def validate(value: object) -> object:
        text = as_text(value)
        return rule(text) if isinstance(text, str) else text

    return BeforeValidator(validate)


def _whole(resources: dict[str, str]) -> dict[str, str]:
    return {name: kubernetes_syntax.resource(name, amount) for name, amount in resources.items()}


KubernetesName = Annotated[str, _follows(kubernetes_syntax.subdomain)]


LabelKey = Annotated[str, _follows(kubernetes_syntax.key)]


LabelValue = Annotated[str, _follows(kubernetes_syntax.value), WithJsonSchema({"type": ["string", "number"]})]


Quantity = Annotated[
    str, _follows(kubernetes_syntax.quantity), WithJsonSchema({"type": ["string", "number"]})
]


class Toleration(Model):
    """Kubernetes' own keys: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/"""

    key: LabelKey | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value; leave `value` out")
        if self.key is None and self.operator != "Exists":
            raise ValueError("has no key; add `key:`, or `operator: Exists` for every taint")
        if self.tolerationSeconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs `effect: NoExecute`")
        return self


class Topology(Model):
    label: LabelKey = Field(description="Node label of a rack or block: a run's pods stay in one of them.")
    required: bool = Field(False, description="Required: stay pending rather than spread over domains.")
    exclusive: bool = Field(False, description="No other run in it (jobset).")
    tier: Count | None = Field(None, description="Volcano: the highest tier of its network topology.")


class Serve(Model):
    port: Annotated[int, Field(ge=1, le=65535)] = Field(8000, description="Where rank 0 of a group listens.")
    health: Annotated[str, _follows(kubernetes_syntax.http_path)] = Field(
        "/health", description="HTTP path that answers 200 when it is ready."
    )
    replicas: Count = Field(1, description="Groups of `nodes` hosts.")


class Kubernetes(Model):
    namespace: Name | None = Field(None, description="Default: that of the kubeconfig's context.")
    context: str | None = Field(None, description="kubeconfig context; default: the current one.")
    kind: Literal["job", "jobset", "trainjob", "mpijob", "pytorchjob", "leaderworkerset"] = Field(
        "job", description="Which object runs the pods; all but job need their controller in the cluster."
    )
    trainer: Annotated[Literal["2.0", "2.1", "2.2"], BeforeValidator(as_text)] = Field(
        "2.2", description="trainjob: version of Kubeflow Trainer; 2.2 also for newer ones."
    )
    runtime: KubernetesName | None = Field(
        None,
        description="trainjob: a ClusterTrainingRuntime such as torch-distributed; without it a run brings its own.",
    )
    leader_first: bool = Field(False, description="jobset: other hosts start when the first one is ready.")
    serve: Serve = Field(default_factory=Serve, description="leaderworkerset: how the model is reached.")
    queueing: Literal["kueue", "volcano", "coscheduling"] = Field(
        "kueue", description="What admits a run's pods together; kueue does when `queue` is set."
    )
    queue: LabelValue | None = Field(None, description="Queue: Kueue's LocalQueue, Volcano's Queue.")
    queue_priority: LabelValue | None = Field(None, description="Kueue's WorkloadPriorityClass.")
    priority_class: KubernetesName | None = Field(None, description="PriorityClass of the pods.")
    scheduler: KubernetesName | None = Field(None, description="schedulerName, if not that of `queueing`.")
    topology: Annotated[Topology, OrText("label")] | None = Field(
        None, description="Keeps a run within one rack or block: a node label."
    )
    runs: KubernetesName | None = Field(
        None, description="PersistentVolumeClaim for run folders; without it they end with the pods."
    )
    cpus: Quantity | None = Field(None, description="CPUs a pod asks for; default: 90 % of the host's.")
    memory: Bytes | None = Field(None, description="Memory limit of a pod; default: 90 % of the host's.")
    shm: Bytes | None = Field(None, description="Size of /dev/shm, part of `memory`; default: by the plan.")
    resources: Annotated[dict[LabelKey, Quantity], AfterValidator(_whole)] = Field(
        default_factory=dict, description="More resources of a pod, such as rdma/ib: 8."
    )
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    affinity: dict[Literal["nodeAffinity", "podAffinity", "podAntiAffinity"], dict[str, Any]] = Field(
        default_factory=dict, description="Kubernetes' own keys."
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, description="More labels of every object."
    )
    annotations: dict[LabelKey, Text] = Field(
        default_factory=dict, description="More annotations of the pods, such as secondary networks."
    )
    image_pull_secrets: list[KubernetesName] = Field(default_factory=list)
    service_account: KubernetesName | None = Field(None, description="Its token is never mounted.")
    user: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(10001, description="UID the ranks run as.")
    group: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(10001, description="GID the ranks run as.")
    memlock: Literal["capability", "node"] = Field(
        "capability",
        description="How RDMA may pin memory: capability (root with IPC_LOCK), or node: the node sets no limit.",
    )
    fail_on: list[Annotated[int, Field(ge=1, le=255)]] = Field(
        default_factory=lambda: exit_codes.with_restart("never"),
        max_length=200,
        description="Exit codes that end the run at once: bad input, loss not finite, no run folder, out of memory.",
    )
    wait: Seconds = Field("30m", validate_default=True, description="How long first hosts wait for the last.")
    grace_seconds: Count = Field(300, description="From SIGTERM to SIGKILL: longer than a checkpoint takes.")


class Local(Model):
    container: Literal["none", "docker", "podman"] = "none"
    secrets: str = Field("~/.secrets", description="Folder of files (mode 0600), one a secret.")


class Cluster(Model):
    """Where it runs."""

    gpu: str | None = Field(None, description="GPU type, such as h100-80gb; absent: ranks run on the CPU.")
    slots: Count = Field(description="Ranks per host: its GPUs, or CPU processes.")
    hosts: Count | None = Field(None, description="How many hosts there are.")
    cpus: Count | None = Field(None, description="CPU cores of a host.")
    memory: Bytes | None = Field(None, description="Memory of a host.")
    cpu_level: Literal["x86-64-v2", "x86-64-v3", "x86-64-v4"] | None = Field(
        None, description="What a host's processor can do (v3: AVX2, v4: AVX-512); `doctor` shows it."
    )
    nvme: Nvme | None = Field(None, description="A host's own NVMe disks, for offload.")
    bandwidth: Count | None = Field(
        None, description="Gb/s that one host sends over the fabric, all its adapters together."
    )
    fabric: str = Field("tcp", description="The network between hosts: see `python -m launcher env`.")
    interface: Text | None = Field(
        None, description="Network interface of the bootstrap traffic, such as eth0."
    )
    image: Text = Field(
        "deepspeed-train", description="Container image; without a tag, the one of docker/'s contents."
    )
    scratch: AbsolutePath = Field("/tmp", description="A folder on each host's own disk, for caches.")
    mounts: dict[AbsolutePath, Annotated[Mount, OrText("host")]] = Field(
        default_factory=dict,
        description="Path inside → path on the host, or {host: …, claim: …, readonly: …, local: …}.",
    )
    env: Environment = Field(default_factory=dict, description="Environment variables of this site.")
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()
    local: Local = Local()

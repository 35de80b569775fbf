"""What a person writes: the job file (what to run) and the cluster file (where it runs).

Owns field names, their ranges and help texts, and the JSON Schema that editors use.
What follows from the fields together is `plan`'s. The two share one field, `env`: the job's value wins.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from launcher import units
from launcher.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"


def _measure(convert: Callable[[str], int], examples: str) -> BeforeValidator:
    def validate(value: object) -> int:
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} has no unit; write it as {examples}")
        made = convert(value)
        if made < 1:
            raise ValueError(f"{value!r} is not above zero; write it as {examples}")
        return made

    return BeforeValidator(validate)


def _text(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{'true' if value else 'false'} is not text; quote it")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("a value cannot hold a NUL character")
    # a number is the text that was written: `007` must not reach a program as `7`
    return getattr(value, "written", str(value)) if isinstance(value, (int, float)) else value


def _bindable(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("/"):
        raise ValueError(f"{value!r} is not an absolute path")
    if set(value) & set(":,\n\0\"'\\"):
        raise ValueError(f"{value!r} holds a character that container runtimes split on (: , quote, newline)")
    return value


Seconds = Annotated[
    int,
    _measure(units.seconds, "48h, 90m or 48:00:00"),
    WithJsonSchema({"type": "string", "examples": ["48h", "90m"]}),
]
Bytes = Annotated[
    int,
    _measure(units.size, "80GB or 512GiB"),
    WithJsonSchema({"type": "string", "examples": ["80GB", "512GiB"]}),
]
Text = Annotated[str, BeforeValidator(_text), WithJsonSchema({"type": ["string", "number"]})]
AbsolutePath = Annotated[str, BeforeValidator(_bindable)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$", max_length=40)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _OrText:
    """Lets a mapping be written as one value: `deepspeed: zero3` for `deepspeed: {preset: zero3}`."""

    def __init__(self, field: str, *kinds: str) -> None:
        self.field, self.kinds = field, list(kinds) or ["string"]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            lambda v: v if isinstance(v, (dict, BaseModel)) else {self.field: v}, handler(source)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": self.kinds}, handler(core)]}


class Batch(_Model):
    micro: Count = Field(description="Samples that one rank processes at a time.")
    global_: Count | None = Field(
        None,
        alias="global",
        description="Samples of one optimizer step over all ranks. Accumulation is derived.",
    )
    accumulation: Count | None = Field(
        None, description="Micro batches per optimizer step, instead of `global`."
    )


class Checkpoint(_Model):
    every: Count = Field(500, description="Steps between checkpoints.")
    keep: Count = Field(3, description="How many complete checkpoints are kept.")
    resume: Text | None = Field(None, description="A run's id, or a checkpoints folder, to start from.")


class DeepSpeed(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    preset: str = Field("auto", strict=True, description="A file of templates/deepspeed/, or auto.")

    @property
    def overrides(self) -> dict[str, Any]:
        """DeepSpeed's own keys, laid over the preset."""
        return dict(self.model_extra or {})


class Variable(_Model):
    value: Text | None = Field(None, description="The value itself.")
    secret: (
        Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")] | None
    ) = Field(None, description="Name of a secret that holds it; the value never lands in a file of ours.")
    key: Annotated[str, StringConstraints(pattern=r"^[-._A-Za-z0-9]+$")] | None = Field(
        None, description="The secret's key, if it is not the variable's name (Kubernetes)."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Variable:
        if self.value is not None and self.secret is not None:
            raise ValueError("has a value and a secret; keep one of them")
        if self.key is not None and self.secret is None:
            raise ValueError("has a key but no secret to look it up in; add `secret:`")
        return self


class Mount(_Model):
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


# A null leaves a variable out that the fabric or the cluster file sets.
Environment = dict[VariableName, Annotated[Variable, _OrText("value", "string", "number", "null")]]


class Job(_Model):
    """What to run."""

    name: Name = Field(description="Starts the run's id: lower case, digits and dashes.")
    workload: Text = Field(
        "pretrain", description="A program of docker/workloads/, or the path of your own .py file."
    )
    cluster: str | None = Field(
        None, description="A file of jobs/clusters/ (its name) or a path; `--cluster` overrides."
    )
    nodes: Annotated[int, Field(ge=1, le=4096)] = Field(1, description="Hosts.")
    walltime: Seconds = Field(
        "24h", validate_default=True, description="How long it may run before it is stopped: 48h, 90m."
    )
    model: Text | None = Field(None, description="A named architecture, a local path or a hub name.")
    batch: Batch
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="auto is bf16 where the GPU has it."
    )
    deepspeed: Annotated[DeepSpeed, _OrText("preset")] = Field(
        default_factory=DeepSpeed, description="auto, a preset, or DeepSpeed's own keys over a `preset`."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Options of the workload.")
    checkpoint: Checkpoint = Checkpoint()
    restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        10, description="How often the run is started again after preemption, walltime or a lost host."
    )
    env: Environment = Field(default_factory=dict, description="Extra environment variables.")


class Slurm(_Model):
    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    container: Literal["none", "pyxis", "apptainer"] = Field("none", description="How ranks enter the image.")
    sbatch: dict[str, Any] = Field(
        default_factory=dict, description="Any other sbatch option: {constraint: h100}."
    )
    setup: list[str] = Field(
        default_factory=list, description="Shell lines before the job starts: module load …"
    )
    signal_seconds: Annotated[int, Field(ge=10, le=65535)] = Field(
        120, description="How long before the walltime ranks are told to save."
    )
    secrets: str = Field(
        "~/.secrets", description="Folder of files (mode 0600), one a secret, read inside the job."
    )


class Kubernetes(_Model):
    namespace: Name = "default"
    context: str | None = Field(None, description="kubeconfig context; default: the current one.")
    kind: Literal["job"] = Field("job", description="Which object runs the pods.")
    queue: Text | None = Field(None, description="Kueue local queue.")
    runs: Name | None = Field(
        None, description="PersistentVolumeClaim for run folders; without it they end with the pods."
    )
    node_selector: dict[str, Text] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    grace_seconds: Count = Field(300, description="From SIGTERM to SIGKILL: longer than a checkpoint takes.")


class Local(_Model):
    container: Literal["none", "docker", "podman"] = "none"
    secrets: str = Field("~/.secrets", description="Folder of files (mode 0600), one a secret.")


class Cluster(_Model):
    """Where it runs."""

    gpu: str | None = Field(None, description="GPU type, such as h100-80gb; absent: ranks run on the CPU.")
    slots: Count = Field(description="Ranks per host: its GPUs, or CPU processes.")
    hosts: Count | None = Field(None, description="How many hosts there are.")
    cpus: Count | None = Field(None, description="CPU cores of a host.")
    memory: Bytes | None = Field(None, description="Memory of a host.")
    fabric: str = Field("tcp", description="The network between hosts: see `python -m launcher env`.")
    interface: Text | None = Field(
        None, description="Network interface of the bootstrap traffic, such as eth0."
    )
    image: Text = Field(
        "deepspeed-train", description="Container image; without a tag, the one of docker/'s contents."
    )
    scratch: AbsolutePath = Field("/tmp", description="A folder on each host's own disk, for caches.")
    mounts: dict[AbsolutePath, Annotated[Mount, _OrText("host")]] = Field(
        default_factory=dict,
        description="Path inside → path on the host, or {host: …, claim: …, readonly: …, local: …}.",
    )
    env: Environment = Field(default_factory=dict, description="Environment variables of this site.")
    slurm: Slurm = Slurm()
    kubernetes: Kubernetes = Kubernetes()
    local: Local = Local()


def schema(kind: Literal["job", "cluster"]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a job or cluster file, for editors."""
    made = (Job if kind == "job" else Cluster).model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def is_name(text: str) -> bool:
    """Whether `text` may be a job's name or a run's suffix."""
    return re.fullmatch(NAME, text) is not None

"""The job file: what to run.

Owns field names, their ranges and help texts; what follows from the fields together is `planning`'s.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from launcher.files.fields import Count, Model, Name, OrText, Seconds, Text
from launcher.files.shared import Environment


class Batch(Model):
    micro: Count = Field(description="Samples that one rank processes at a time.")
    global_: Count | None = Field(
        None,
        alias="global",
        description="Samples of one optimizer step over all ranks. Accumulation is derived.",
    )
    accumulation: Count | None = Field(
        None, description="Micro batches per optimizer step, instead of `global`."
    )


class Checkpoint(Model):
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


class Job(Model):
    """What to run."""

    name: Name = Field(description="Starts the run's id: lower case, digits and dashes.")
    workload: Text = Field(
        "pretrain", description="A program of docker/workloads/, or the path of your own .py file."
    )
    cluster: Text | None = Field(
        None, description="A file of jobs/clusters/ (its name) or a path; `--cluster` overrides."
    )
    nodes: Annotated[int, Field(ge=1, le=4096)] = Field(1, description="Hosts.")
    walltime: Seconds = Field(
        "24h", validate_default=True, description="How long it may run before it is stopped: 48h, 90m."
    )
    model: Text | None = Field(None, description="A named architecture, a local path or a hub name.")
    batch: Batch = Field(
        Batch(micro=1),
        description="What each step works on. Only workloads without a model's batch leave it out.",
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="auto is bf16 where the GPU has it."
    )
    deepspeed: Annotated[DeepSpeed, OrText("preset")] = Field(
        default_factory=DeepSpeed, description="auto, a preset, or DeepSpeed's own keys over a `preset`."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Options of the workload.")
    checkpoint: Checkpoint = Checkpoint()
    restarts: Annotated[int, Field(ge=0, le=1000)] = Field(
        10, description="How often the run is started again after preemption, walltime or a lost host."
    )
    env: Environment = Field(default_factory=dict, description="Extra environment variables.")
    preflight: bool | None = Field(
        None, description="Check the hosts before the ranks start (Slurm); default: with more than one host."
    )

"""The job file: what to run.

Owns field names, their ranges and help texts; what follows from the fields together is `planning`'s.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from launcher import workloads
from launcher.files.fields import (
    Count,
    Mirror,
    Misplaced,
    Name,
    Patience,
    Range,
    Seconds,
    Shorthand,
    Text,
    field,
)
from launcher.files.shared import Environment, Notify
from launcher.frozen import dataclass

Hosts = Annotated[int, Range(1, 4096)]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    SHORT: ClassVar = "max"

    min: Hosts | None = field(None, "The fewest hosts that it starts on, or goes on with; default: `max`.")
    max: Hosts = field(description="The most hosts that it gets.")

    def __post_init__(self) -> None:
        if self.fewest > self.max:
            raise Misplaced(
                f"{self.min} is above nodes.max: {self.max}; use {self.max} or fewer, or a larger max", "min"
            )

    @property
    def fewest(self) -> int:
        return self.max if self.min is None else self.min

    @property
    def vary(self) -> bool:
        """Whether there are more numbers of hosts than one."""
        return self.fewest < self.max


@dataclass(frozen=True, kw_only=True)
class Batch:
    micro: Count = field(description="Samples that one rank processes at a time.")
    global_: Count | None = field(
        None, "Samples of one optimizer step over all ranks. Accumulation is derived.", key="global"
    )
    accumulation: Count | None = field(None, "Micro batches per optimizer step, instead of `global`.")


@dataclass(frozen=True, kw_only=True)
class Local:
    every: Count = field(50, "Steps between those on the hosts' own disks.")
    keep: Count = field(1, "How many of them each host keeps.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every: Count = field(500, "Steps between checkpoints.")
    keep: Count = field(3, "How many complete checkpoints are kept, at the mirror too.")
    async_: bool = field(
        False,
        "Write them while training goes on, from a copy in host memory, which must have room for it.",
        key="async",
    )
    local: Local | None = field(
        None, "More of them on each host's own disk (the cluster's `scratch`): {every: 50, keep: 1}."
    )
    mirror: Mirror | None = field(
        None,
        "Where each is uploaded to, and fetched from if the run folder has none: s3://, gs://, file:///.",
    )
    resume: Text | None = field(None, "A run's id, or a checkpoints folder, to start from.")
    any_ranks: bool = field(
        False,
        "Program of your own: it goes on from its checkpoints with any number of ranks, as nodes: {min, max} asks.",
    )
    requeue: bool = field(
        False,
        "At the walltime back into the queue whatever the program ends with, if RUN_DIR/checkpoints has a file.",
    )


@dataclass(frozen=True, kw_only=True)
class Watch:
    stall: Patience = field(
        "auto",
        "How long no rank may advance before the hang is explained and ended: auto is its own pace, or 10m, or off.",
    )


@dataclass(frozen=True, kw_only=True)
class Profile:
    flops: Count | None = field(
        None, "The step of which DeepSpeed's flops profiler counts each module's work, into rank 0's log."
    )
    breakdown: bool = field(
        False, "DeepSpeed's wall_clock_breakdown: forward, backward and update of each step, in rank 0's log."
    )
    nsys: bool = field(
        False,
        "Start the ranks under Nsight Systems, which `launcher profile RUN --tool nsys` has record steps.",
    )


@dataclass(frozen=True, kw_only=True)
class DeepSpeed:
    MORE: ClassVar = "overrides"

    preset: str = field("auto", "A file of templates/deepspeed/, or auto.")
    overrides: dict[str, Any] = field(dict, "DeepSpeed's own keys, laid over the preset.")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run."""

    name: Name = field(description="Starts the run's id: lower case, digits and dashes.")
    workload: Text = field("pretrain", "A program of docker/workloads/, or the path of your own .py file.")
    command: list[Text] | None = field(
        None, "Any program with its words, instead of a workload: [python, -m, my.train]."
    )
    processes: Literal["slot", "host"] = field(
        "slot", "One process a slot, or one a host for programs that start the ranks themselves: torchrun."
    )
    code: Text | None = field(
        None,
        "Folder that travels with the job; default: the script's git checkout, or its folder. none: nothing.",
    )
    cluster: Text | None = field(
        None, "A file of jobs/clusters/ (its name) or a path; `--cluster` overrides."
    )
    nodes: Annotated[Nodes, Shorthand("max", ("integer",))] = field(
        Nodes(max=1),
        "Hosts, or {min: 2, max: 4}: what there is, fewer after a loss, more at a restart (Slurm).",
    )
    spares: Annotated[int, Range(0, 4096)] = field(
        0, "Hosts more that stay idle until one of the others is lost, hangs or is not fit (Slurm)."
    )
    walltime: Seconds = field(24 * 3600, "How long it may run before it is stopped: 48h, 90m.")
    model: Text | None = field(None, "A named architecture, a local path or a hub name.")
    batch: Batch = field(
        Batch(micro=1),
        "What each step works on. Only workloads without a model's batch leave it out.",
        needed=True,
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = field("auto", "auto is bf16 where the GPU has it.")
    deepspeed: Annotated[DeepSpeed, Shorthand("preset")] = field(
        DeepSpeed, "auto, a preset, or DeepSpeed's own keys over a `preset`."
    )
    args: dict[str, Any] = field(dict, "Options of the workload.")
    checkpoint: Checkpoint = Checkpoint()
    restarts: Annotated[int, Range(0, 1000)] = field(
        10, "How often the run is restarted after an interruption, or a failure that a restart may cure."
    )
    watch: Annotated[Watch, Shorthand("stall")] = field(Watch(), "What is done about ranks that hang.")
    profile: Profile = field(
        Profile(), "DeepSpeed's own profilers; `launcher profile RUN` takes torch's while the job runs."
    )
    signal: Literal["USR2", "TERM", "USR1", "none"] = field(
        "USR2", "What ranks get before the walltime, to save and end with 75."
    )
    env: Environment = field(dict, "Extra environment variables.")
    notify: list[Notify] = field(
        list, "Who is told that it started, ended, failed …, beside those of the cluster file."
    )
    preflight: bool | None = field(
        None, "Check the hosts before the ranks start; default: with more than one host."
    )

    def __post_init__(self) -> None:
        if self.command is not None:
            object.__setattr__(self, "workload", workloads.COMMAND)

"""Job and cluster to plan: hosts × slots, batch arithmetic, DeepSpeed's configuration, environment, mounts.

Pure and deterministic: the same files give the same plan, id included. Rendering and sending are the schedulers'.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import units, workloads
from launcher.deepspeed import config as deepspeed_config
from launcher.deepspeed import versions
from launcher.errors import LauncherError, PlanError, Problem, shown
from launcher.fabrics import FABRICS, model
from launcher.files import paths, validation
from launcher.images import origin
from launcher.planning import (
    accelerators,
    background,
    data_cache,
    elastic,
    fit,
    impossible,
    inline_secrets,
    learning,
    mounts,
    own_program,
    profiling,
    ranks_environment,
    spares,
    tiers,
    unestimated,
    variables,
    without_gpus,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.errors import Places
    from launcher.fabrics.model import Fabric
    from launcher.files.cluster import Cluster
    from launcher.files.job import Job
    from launcher.files.load import Loaded
    from launcher.images.facts import Facts
    from launcher.planning.code import Code
    from launcher.planning.forecast import Forecast
    from launcher.planning.mounts import MountPoint
    from launcher.planning.tuning_record import Tuning
    from launcher.planning.variables import Secret
    from launcher.sizing.inference import Inference

# A run's id is also a DNS label with room for `-4095` behind it (63 characters, RFC 1123).
_LEAST_STALL = 60  # seconds
_STEM = 45


class Workspace(NamedTuple):
    """The only facts of this machine that a plan knows."""

    root: str  # where docker/ and templates/ lie
    runs: str  # the folder of run folders
    python: str  # the interpreter for ranks without a container
    image_tag: str  # the tag of the image that holds docker/ as it is here
    commit: str = ""  # of this project's checkout; '' where there is none
    user: str = ""  # who asks for the plan


class Plan(NamedTuple):
    """What will run, decided. Sizes are bytes, times are seconds."""

    id: str
    job: Job
    cluster: Cluster
    workspace: Workspace
    fabric: Fabric
    batch: deepspeed_config.BatchSizes
    preset: str
    config: dict[str, Any]
    precision: str
    args: dict[str, Any]  # the workload's options
    estimate: fit.Estimate | None  # None where memory is not estimated
    inference: Inference | None  # of a workload that only generates
    variables: tuple[model.Variable, ...]
    secrets: tuple[Secret, ...]
    mounts: tuple[MountPoint, ...]
    image: str
    places: Places  # where the fields of both files are written, for what is found wrong later
    image_facts: Facts | None = None
    warnings: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()  # hosts to stay away from (Slurm)
    code: Code | None = None  # the user's own, which travels with the run
    code_problem: Problem | None = None  # why it cannot
    after: tuple[str, ...] = ()  # runs that must succeed first, as placement.word names them
    forecast: Forecast | None = None  # of a step; None where nothing was measured of the cluster
    tuning: Tuning | None = None  # configurations to try one after another, instead of one to train with
    sizes: tuple[elastic.Size, ...] = ()  # of `nodes: {min, max}`: each number of hosts, the most last
    left_out: tuple[elastic.LeftOut, ...] = ()  # numbers between min and max

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of hosts with ranks that there may be, ascending: one, or several of `nodes: {min, max}`."""
        return tuple(size.nodes for size in self.sizes) or (self.job.nodes.max,)

    @property
    def nodes(self) -> int:
        """Hosts with ranks; of several numbers the largest."""
        return self.numbers[-1]

    @property
    def spares(self) -> int:
        return self.job.spares

    @property
    def allocated(self) -> int:
        """Hosts that the job gets: those with ranks, and spares."""
        return self.nodes + self.spares

    @property
    def fewest(self) -> int:
        """Hosts without which the job does not start."""
        return self.numbers[0] + self.spares

    @property
    def stays(self) -> bool:
        """Whether the job goes on inside its allocation when a host is lost: with a spare, or with fewer."""
        return self.spares > 0 or len(self.numbers) > 1

    def on(self, size: elastic.Size) -> Plan:
        """The plan of the job on this number of hosts alone."""
        return self._replace(batch=size.batch, config=size.config, estimate=size.estimate, sizes=(size,))

    @property
    def slots(self) -> int:
        return self.cluster.slots

    @property
    def world_size(self) -> int:
        return self.nodes * self.slots

    @property
    def gpu(self) -> bool:
        return self.cluster.gpu is not None

    @property
    def preflight(self) -> bool:
        return self.allocated > 1 if self.job.preflight is None else self.job.preflight

    def runtime(self, scheduler: str) -> str:
        """The container runtime on `scheduler`, "none" for none; a pod is one by itself."""
        options = {"slurm": self.cluster.slurm.container, "local": self.cluster.local.container}
        return options.get(scheduler, scheduler)

    @property
    def folder(self) -> str:
        return f"{self.workspace.runs}/{self.id}"

    @property
    def environment(self) -> tuple[model.Variable, ...]:
        """Every variable of the ranks, each with its reason; secrets apart."""
        return self.variables


def make(loaded: Loaded, workspace: Workspace, suffix: str = "") -> Plan:
    """The plan of a job on its cluster. `suffix` tells runs of one job apart.

    Raises PlanError with everything that cannot work.
    """
    job, cluster = loaded.job, without_gpus.seen(loaded.job, loaded.cluster)
    if not job.nodes.vary:
        return _fixed(loaded, workspace, suffix)
    try:
        made = elastic.plan(job, cluster, lambda on: _fixed(loaded._replace(job=on), workspace, suffix))
    except PlanError as error:
        raise error.at(loaded.places) from None
    doubts = (problem.at(loaded.places) for problem in elastic.warnings(job))
    identity = _id(job, cluster, workspace, suffix)
    return made._replace(job=job, id=identity, warnings=(*made.warnings, *doubts))


def _fixed(loaded: Loaded, workspace: Workspace, suffix: str) -> Plan:
    """The plan of a job on one number of hosts."""
    job, written, places, image_facts, *_ = loaded
    cluster = without_gpus.seen(job, written)
    fabric = FABRICS[cluster.fabric]
    findings = variables.findings(job, cluster, fabric)
    problems = [
        *impossible.problems(job, cluster),
        *own_program.problems(job, cluster.slots),
        *profiling.problems(job, cluster),
        *tiers.problems(job),
        *ranks_environment.problems(job, cluster),
        *accelerators.problems(cluster),
        *data_cache.problems(cluster),
        *variables.problems(findings, "error", job),
    ]
    try:
        batch = fit.batch(job, cluster)
        estimate, unknown = _estimate(loaded, cluster)
        generated, unsized = _generated(loaded, cluster)
        preset, config = _deepspeed(job, cluster, estimate)
        problems += [*impossible.clashes(job, cluster, estimate, config), *tiers.unsaved(job, config)]
    except LauncherError as error:
        raise PlanError(*problems, *error.problems).at(places) from None
    if problems:
        raise PlanError(*problems).at(places)
    warnings = [*variables.problems(findings, "warning", job), *_warnings(loaded, cluster)]
    notes = [str(problem.at(places)) for problem in variables.problems(findings, "note", job)]
    if unknown and (note := unestimated.unknown(job, unknown, preset)):
        notes.append(note)
    notes += [f"{unsized}; no memory is estimated"] if unsized else []
    notes += _notes(loaded, cluster, estimate)
    return Plan(
        id=_id(job, cluster, workspace, suffix),
        job=job,
        cluster=cluster,
        workspace=workspace,
        fabric=fabric,
        batch=batch,
        preset=preset,
        config=config,
        precision=fit.precision(job, cluster),
        args=_args(job, estimate),
        estimate=estimate,
        inference=generated,
        variables=variables.exported(job, cluster, fabric),
        secrets=variables.secrets(job, cluster),
        mounts=mounts.points(cluster, config),
        warnings=tuple(problem.at(places) for problem in warnings),
        notes=tuple(notes),
        image=_image(written, workspace),
        places=places,
        image_facts=image_facts,
        forecast=_forecast(loaded, estimate),
    )


def _warnings(loaded: Loaded, cluster: Cluster) -> Iterator[Problem]:
    """What is doubtful beside the environment's variables."""
    yield from inline_secrets.warnings(loaded.job, cluster)
    yield from _impatience(loaded.job)
    yield from spares.warnings(loaded.job)
    if isinstance(loaded.measured, Problem):
        yield loaded.measured


def _forecast(loaded: Loaded, estimate: fit.Estimate | None) -> Forecast | None:
    """How long a step will take, by what was measured of the cluster."""
    if loaded.measured is None or isinstance(loaded.measured, Problem) or estimate is None:
        return None
    from launcher.planning import forecast  # most clusters were not measured

    return forecast.make(estimate, fit.precision(loaded.job, loaded.cluster), loaded.measured)


def _estimate(loaded: Loaded, cluster: Cluster) -> tuple[fit.Estimate | None, str]:
    """The estimate, or None and why there is none. Of a program of one's own checkpoints only where it names them."""
    job = loaded.job
    if workloads.is_script(job.workload):  # its own word for the model stays: it starts in its code
        job = replace(job, model=job.model and paths.model(job.model, loaded.beside))
    estimate, unknown = fit.estimate_or_reason(job, cluster, loaded.hub)
    if estimate and workloads.is_script(job.workload):
        estimate = estimate._replace(saves=("checkpoint",) in loaded.places["job"])
    return estimate, unknown


def _notes(loaded: Loaded, cluster: Cluster, estimate: fit.Estimate | None) -> Iterator[str]:
    """What the estimate leaves out, which DeepSpeed's keys are checked, and what the workload is not given."""
    job, _, places, image_facts, _, measured, _ = loaded
    yield from filter(None, [unestimated.own_code(job, loaded.hub)])
    if measured and not isinstance(measured, Problem) and cluster.card:
        yield from filter(None, [fit.memory_note(cluster, min(h.memory for h in measured.probe.hosts))])
    yield from filter(None, [unestimated.part_note(cluster) if estimate and estimate.bound else ""])
    yield from unestimated.uncounted(estimate)
    yield from filter(None, [unestimated.partial(estimate), learning.judge_note(job) if estimate else ""])
    yield from filter(None, [background.note(job, estimate is not None)])
    version = cluster.deepspeed_version or (image_facts.versions.get("deepspeed", "") if image_facts else "")
    yield from filter(None, [versions.note(version)])
    given = workloads.saves(job.workload) or workloads.is_script(job.workload)
    if ("checkpoint",) in places["job"] and not given:
        place = places["job"]["checkpoint",]
        yield f"{place}: checkpoint: workload {shown(job.workload)} is not given it"


def _generated(loaded: Loaded, cluster: Cluster) -> tuple[Inference | None, str]:
    """What a workload that only generates needs, or why that is not known."""
    if not workloads.traits(loaded.job.workload).generates:
        return None, ""
    from launcher.planning import generating

    return generating.estimate_or_reason(loaded.job, cluster, loaded.hub)


def _deepspeed(job: Job, cluster: Cluster, estimate: fit.Estimate | None) -> tuple[str, dict[str, Any]]:
    """The preset, and what is written to ds_config.json: what the estimate is of, where there is one."""
    if estimate:
        return estimate.candidate.preset, dict(estimate.evaluation.config)
    return fit.blind(job, cluster)


def _impatience(job: Job) -> Iterator[Problem]:
    """A limit that a slow step, a checkpoint or the first compilation may pass without a hang."""
    if job.watch.stall not in {"auto", "off"} and units.seconds(job.watch.stall) < _LEAST_STALL:
        what = f"watch: {job.watch.stall} may end a run whose ranks are only slow"
        yield Problem(what, "auto goes by the run's own pace", about=("job", "watch"))


def _args(job: Job, estimate: fit.Estimate | None) -> dict[str, Any]:
    """The job's args, with activation checkpointing where the plan needs it."""
    chosen = estimate and estimate.request.checkpointing is None and estimate.candidate.checkpointing
    if chosen and "activation-checkpointing" not in job.args:
        return {**job.args, "activation-checkpointing": True}
    return dict(job.args)


def _image(cluster: Cluster, workspace: Workspace) -> str:
    """The cluster's image; one of ours without a tag has that of `make image` for the flavour that these ranks need."""
    if _has_tag(cluster.image) or not origin.is_ours(cluster.image):
        return cluster.image
    return f"{cluster.image}:{workspace.image_tag}-{'cuda' if cluster.gpu else 'cpu'}"


def _has_tag(image: str) -> bool:
    """A path is an image as it is: .sqsh, .sif, or an unpacked one."""
    return (
        image.startswith("/")
        or image.endswith((".sqsh", ".sif"))
        or "@" in image
        or ":" in image.rpartition("/")[2]
    )


def _id(job: Job, cluster: Cluster, workspace: Workspace, suffix: str) -> str:
    """The job's name and six digits of the hash of all that decides the plan: equal jobs, equal ids."""
    content = [validation.written(job), validation.written(cluster), workspace.image_tag, suffix]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    stem = "-".join(filter(None, (job.name, suffix)))[:_STEM].rstrip("-")
    return f"{stem}-{digest[:6]}"

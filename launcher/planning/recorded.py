"""The plan of a run that was, from its plan.json: decided anew, and held to what was decided then.

Owns what of a record stands above today's tables: DeepSpeed's configuration, args, batch, environment and image.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from launcher.deepspeed.config import BatchSizes
from launcher.errors import LauncherError, PlanError
from launcher.fabrics.model import Variable
from launcher.files import references, restored, validation
from launcher.files.cluster import Cluster, GpuHour
from launcher.files.document import Document
from launcher.files.fields import Range, field
from launcher.files.job import Job
from launcher.files.load import Loaded
from launcher.frozen import dataclass
from launcher.planning import fit, tuning_record
from launcher.planning import plan as plans
from launcher.planning.elastic import Size

if TYPE_CHECKING:
    from launcher.planning.fit import Estimate
    from launcher.planning.plan import Plan, Workspace
    from launcher.planning.tuning_record import Tuning


Spellings = dict[str, list[restored.Spelling]]


def spellings(plan: Plan) -> Spellings:
    """What of a plan's numbers JSON does not keep, for `plan` below."""
    files = {"job": plan.job, "cluster": plan.cluster}
    data = {name: validation.written(file) for name, file in files.items()} | {"args": plan.args}
    return {name: list(restored.spellings(part)) for name, part in data.items()}


@dataclass(frozen=True, kw_only=True)
class _Preset:
    preset: str = field()
    config: dict[str, Any] = field()


@dataclass(frozen=True, kw_only=True)
class _Batch:
    micro: Annotated[int, Range(1)] = field()
    accumulation: Annotated[int, Range(1)] = field()
    train: Annotated[int, Range(1)] = field()


@dataclass(frozen=True, kw_only=True)
class _Size:
    nodes: Annotated[int, Range(1)] = field()
    batch: _Batch = field()
    config: dict[str, Any] = field()


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What of a plan.json is taken from it; the rest is decided anew."""

    MORE: ClassVar[str] = "rest"

    id: str = field()
    image: str = field()
    batch: _Batch = field()
    deepspeed: _Preset = field()
    precision: str = field()
    args: dict[str, Any] = field()
    environment: dict[str, str] = field()
    job: Job = field()
    cluster: Cluster = field()
    sizes: list[_Size] = field(list)
    rest: dict[str, Any] = field(dict)


def plan(record: Any, spellings: Spellings, workspace: Workspace) -> Plan:
    """The plan of a run's plan.json on `workspace`. Raises PlanError where this launcher cannot make one of it."""
    try:
        by_path = {(part, *path): str(text) for part, paths in spellings.items() for path, text in paths}
    except (ValueError, TypeError):
        raise PlanError("its lock.json is not one that this launcher reads: `spellings`") from None
    try:
        then = restored.restore(_Record, record, by_path)
    except ValueError as error:
        raise PlanError(f"its plan.json is not one that this launcher reads: {error}") from None
    job = {
        "batch": {},
        **record["job"],
        "args": record["args"],
    }  # what has its default is left out of a record
    for model, data in ((Job, job), (Cluster, record["cluster"])):
        for problem in references.problems(Document("", data), model):
            raise PlanError(f"its plan.json is not one that this launcher reads: {problem.message}")
    if not _possible(then):
        raise PlanError(
            "its plan.json is not one that this launcher reads: sizes are not numbers of its job's nodes"
        )
    decided = plans.make(Loaded(then.job, then.cluster), workspace)
    reasons = {v.name: v for v in decided.variables}
    variables = tuple(
        reasons[name]._replace(value=value)
        if name in reasons
        else Variable(name, value, "as in the run before", "")
        for name, value in then.environment.items()
    )
    return decided._replace(
        tuning=_tuning(then.rest.get("tuning")),
        id=_stem(then.id),
        batch=_batch(then.batch),
        sizes=tuple(Size(size.nodes, _batch(size.batch), size.config) for size in then.sizes),
        preset=then.deepspeed.preset,
        config=then.deepspeed.config,
        precision=then.precision,
        args=then.args,
        variables=variables,
        image=then.image,
    )


def _possible(then: _Record) -> bool:
    """Whether `sizes` are ascending numbers of hosts that the job may have; none of a job with one number."""
    numbers, allowed = [size.nodes for size in then.sizes], then.job.nodes
    if not allowed.vary or not numbers:
        return bool(numbers) == allowed.vary
    return numbers == sorted(set(numbers)) and allowed.fewest <= numbers[0] <= numbers[-1] <= allowed.max


def _batch(batch: _Batch) -> BatchSizes:
    return BatchSizes(batch.micro, batch.accumulation, batch.train)


def estimate(record: Any) -> Estimate | None:
    """What a run's plan.json says of its training; None where it is not known, or the record is not one of ours."""
    try:
        one = {"batch": {"micro": 1}}  # its default, which a record leaves out
        then = {**one, **record["job"], "args": record["args"], "nodes": record["nodes"]}
        job = restored.restore(Job, then, {})
        return fit.estimate_or_reason(job, restored.restore(Cluster, record["cluster"], {}))[0]
    except (KeyError, TypeError, ValueError, LauncherError):
        return None


def gpu_hour(record: Any) -> GpuHour:
    """What an hour of a slot of the run's cluster cost; without figures where the record has none of ours."""
    try:
        return restored.restore(GpuHour, record["cluster"]["gpu_hour"], {})
    except (KeyError, TypeError, ValueError):
        return GpuHour()


def _tuning(record: Any) -> Tuning | None:
    """Raises PlanError for one that is none of ours."""
    if record is None:
        return None
    try:
        return tuning_record.restored(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PlanError(f"its plan.json is not one that this launcher reads: tuning: {error}") from None


def _stem(run: str) -> str:
    """A run's id without the number that told it from earlier runs of the same plan."""
    return re.sub(r"(-[0-9a-f]{6})-[0-9]+$", r"\1", run)

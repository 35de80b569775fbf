"""What verbs print of plans and runs: tables, and machine-readable output (JSON).

Owns columns and key names, which README.md beside this file documents; every figure comes from its own module.
"""

from __future__ import annotations

import json
import math
import shlex
from datetime import datetime
from typing import TYPE_CHECKING, Any

from launcher import units, workloads
from launcher.fabrics import FABRICS, model
from launcher.planning import spares
from launcher.reports import estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from launcher.files.job import Checkpoint
    from launcher.planning.plan import Plan
    from launcher.runs.metrics import Record
    from launcher.runs.record import Run
    from launcher.runs.status import Status


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows in columns, two blanks apart, without trailing blanks; a cell is one printable line."""
    cells = [[units.printable(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def number(value: float | None, form: str = ".4f") -> str:
    """A figure in a table; `-` where it is not known. Very large ones are written with an exponent."""
    if value is None:
        return "-"
    return f"{value:{form}}" if abs(value) < 1e12 else f"{value:.4g}"


def moment(time: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """Unix time in this machine's zone; `-` for what no calendar has, as a damaged file system may say of a file."""
    try:
        return datetime.fromtimestamp(time).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "-"


def dump(data: Any) -> str:
    """Machine-readable output: JSON that every reader takes.

    What of a path or a record is no UTF-8 is an escape, from which Python's os.fsencode makes the same bytes; NaN and
    infinities are null.
    """
    return units.escaped(json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plan(plan: Plan) -> str:
    """A plan as text."""
    job = plan.job
    ranks = f"{plan.nodes} × {plan.slots} = {plan.world_size} ranks"
    rows = [
        ("run", plan.id),
        ("workload", f"{_program(plan)}{f', model {job.model}' if job.model else ''}"),
        ("hosts × slots", f"{ranks} on {plan.cluster.gpu_name or 'CPU'}, fabric {plan.fabric.name}"),
        *([("spares", spares.cost(plan))] if plan.spares else []),
        *_fewer(plan),
        *(_step(plan) if workloads.steps(job.workload) else ()),
        *([("python", plan.cluster.python)] if plan.cluster.python else []),
        ("image", plan.image),
        ("walltime", f"{units.brief(job.walltime)}, restarted up to {job.restarts} times"),
        ("run folder", plan.folder),
    ]
    memory = ["", estimate.text(plan.estimate, _forecast(plan))] if plan.estimate else []
    if plan.inference:
        from launcher.planning import generating
        from launcher.reports import inference

        hint = "" if plan.inference.fits else generating.hint(plan.inference, job, plan.cluster)
        memory = ["", inference.text(plan.inference, hint)]
    lines = [table(rows), *memory, "", "environment of the ranks:"]
    for v in plan.environment:
        lines.append(units.printable(f"  {v.name}={v.value}" + (f"  # {v.why}" if v.why else "")))
    lines += [f"  {s.variable}: from secret {s.name}" for s in plan.secrets]
    return "\n".join(lines)


def _fewer(plan: Plan) -> Iterator[tuple[str, str]]:
    """The other numbers of hosts of `nodes: {min, max}`, the most first, and those that are none."""
    for size in reversed(plan.sizes[:-1]):
        other = plan.on(size)
        ranks = f"{other.nodes} × {other.slots} = {other.world_size} ranks, accumulation {size.batch.accumulation}"
        told = _size(other)
        room = f" of {units.gigabytes(told['capacity'])}" if told["capacity"] else ""
        yield "or", ranks + (f", {units.gigabytes(told['needed'])}{room} a slot" if told["needed"] else "")
    for left in plan.left_out:
        yield "not on", str(left)


def _size(plan: Plan) -> dict[str, Any]:
    """A number of hosts, machine-readable; bytes are those of a slot, None where memory is not estimated."""
    found = plan.estimate
    return {
        "nodes": plan.nodes,
        "world_size": plan.world_size,
        "accumulation": plan.batch.accumulation,
        "needed": found.evaluation.memory.slot.total if found else None,
        "capacity": found.machine.slot_memory if found else None,
    }


def _forecast(plan: Plan) -> list[str]:
    """The lines of a forecast; where nothing was measured, what would give one."""
    if plan.forecast is None:
        measures = plan.estimate and plan.estimate.told
        return [f"forecast              {NOT_MEASURED}"] if measures else []
    from launcher.reports import forecasts

    return forecasts.lines(plan.forecast)


NOT_MEASURED = (
    "none, as this cluster was not measured: a step takes longer than `at least`; `launcher cluster probe`"
)


def _step(plan: Plan) -> Iterator[tuple[str, str]]:
    """What only programs have that work in steps."""
    batch, kept = plan.batch, plan.job.checkpoint
    if workloads.is_script(plan.job.workload):
        yield from _given(plan)
        return
    product = f"micro {batch.micro} × accumulation {batch.accumulation} × {_sharing(plan)}"
    yield "batch", f"{product} = {batch.train} samples per step"
    yield "deepspeed", f"{plan.preset}, ZeRO stage {_stage(plan)}, {plan.precision}"
    if "checkpoint-every" in workloads.options(plan.job.workload):
        how = ", written while training goes on" if kept.async_ else ""
        yield (
            "checkpoints",
            f"every {kept.every} steps{how}, the newest {kept.keep} are kept{_elsewhere(kept)}",
        )


def _elsewhere(kept: Checkpoint) -> str:
    """Where else checkpoints are kept."""
    waits = ", for which training waits" if kept.async_ else ""
    local = f"; every {kept.local.every} on hosts' own disks{waits}" if kept.local else ""
    return local + (f"; uploaded to {kept.mirror}" if kept.mirror else "")


def _program(plan: Plan) -> str:
    """The workload, or the words of a command; how many processes start it where that is not one a slot."""
    words = plan.job.workload if plan.job.command is None else " ".join(map(shlex.quote, plan.job.command))
    return units.printable(words) + (", one process a host" if plan.job.processes == "host" else "")


def _given(plan: Plan) -> Iterator[tuple[str, str]]:
    """What a program of the user's own is told, and does with it what it wants."""
    batch, kept, written = plan.batch, plan.job.checkpoint, plan.places["job"]
    if plan.job.command is None or ("batch",) in written or ("deepspeed",) in written:
        yield (
            "batch",
            f"BATCH_MICRO={batch.micro}, BATCH_ACCUMULATION={batch.accumulation}: for the program to follow",
        )
        yield "deepspeed", f"{plan.preset}, ZeRO stage {_stage(plan)}, {plan.precision}: in $DEEPSPEED_CONFIG"
    if ("checkpoint",) in written:
        told = f"CHECKPOINT_EVERY={kept.every}, CHECKPOINT_KEEP={kept.keep}: for the program to follow"
        yield "checkpoints", told + ("; put back at the walltime if there are any" if kept.requeue else "")


def _sharing(plan: Plan) -> str:
    """What micro batches are counted by: ranks, or groups of ranks that share samples."""
    groups = plan.batch.train // (plan.batch.micro * plan.batch.accumulation)
    size = plan.world_size // groups
    return f"{groups} groups of {size} ranks" if size > 1 else f"world size {plan.world_size}"


def _stage(plan: Plan) -> int:
    return int(plan.config.get("zero_optimization", {}).get("stage", 0))


def _inference(plan: Plan) -> dict[str, Any]:
    """`inference`, and what of it stands where a training job has it too."""
    if plan.inference is None:
        return {"inference": None}
    from launcher.reports import inference

    return inference.data(plan.inference)


def plan_json(plan: Plan) -> str:
    """A plan, machine-readable."""
    batch = plan.batch
    return dump(
        {
            "id": plan.id,
            "world_size": plan.world_size,
            "nodes": plan.nodes,
            "sizes": [_size(plan.on(size)) for size in plan.sizes],
            "left_out": [left._asdict() for left in plan.left_out],
            "spares": plan.spares,
            "slots": plan.slots,
            "batch": {"micro": batch.micro, "accumulation": batch.accumulation, "global": batch.train},
            "deepspeed": {"preset": plan.preset, "config": plan.config},
            "args": plan.args,
            **estimate.data(plan.estimate),
            "forecast": _forecast_data(plan),
            **_inference(plan),
            "precision": plan.precision,
            "image": plan.image,
            "folder": plan.folder,
            "environment": {v.name: v.value for v in plan.environment},
        }
    )


def _forecast_data(plan: Plan) -> dict[str, Any] | None:
    if plan.forecast is None:
        return None
    from launcher.reports import forecasts

    return forecasts.data(plan.forecast)


def status_json(run: Run, now: Status) -> str:
    """A run's status, machine-readable."""
    from launcher.runs import hangs, slow

    hang = hangs.last(run.folder)
    return dump(
        {
            "id": run.id,
            "scheduler": run.scheduler,
            "native_id": run.native_id.partition(":")[0],
            "state": now.state,
            "reason": now.reason,
            "exit_code": now.exit_code,
            "hosts": list(now.hosts),
            "spares": list(now.spares),
            "folder": str(run.folder),
            "slow": [one._asdict() for one in slow.read(run.folder)],
            "hang": hang._asdict() if hang else None,
        }
    )


def status(run: Run, now: Status) -> str:
    """A run's status as text, with its progress and its first failure."""
    from launcher.reports import prepared_tables
    from launcher.runs import diagnosis, metrics

    rows = [
        ("run", run.id),
        ("state", f"{now.state}{f': {now.reason}' if now.reason else ''}"),
        (
            "where",
            f"{run.scheduler} {run.native_id.partition(':')[0]}, {', '.join(now.hosts[:8]) or 'no hosts yet'}",
        ),
        *([("hosts", f"{len(now.hosts)} of at most {run.nodes}")] if 0 < len(now.hosts) < run.nodes else []),
        *([("spares", ", ".join(now.spares))] if now.spares else []),
        ("submitted", moment(run.submitted, "%Y-%m-%d %H:%M:%S")),
        ("folder", str(run.folder)),
    ]
    if now.exit_code is not None:
        rows.insert(2, ("exit code", str(now.exit_code)))
    records = metrics.read(run.folder)[0]
    if steps := metrics.steps(records):
        rows.append(("progress", progress_line(steps[-1])))
    elif words := prepared_tables.progress(records):
        rows.append(("progress", words))
    return "\n".join([table(rows), *diagnosis.report(run, now)])


def progress_line(step: Record) -> str:
    """One step: its number, the reward (of a policy; else the loss), and the speed, where they are known."""
    last, speed = step.figures.get("max_steps"), step.figures.get("tokens_per_second")
    name = "reward" if "reward" in step.figures else "loss"
    parts = [f"step {step.step}{f'/{last:.0f}' if last else ''}"]
    if name in step.figures:
        parts.append(f"{name} {number(step.figures[name])}")
    if speed:
        parts.append(f"{number(speed, ',.0f')} tokens/s")
    return ", ".join(parts)


def run_list(states: Sequence[tuple[Run, Status]], as_json: bool) -> str:
    """Every run with its state, in the order given."""
    if as_json:
        return dump([json.loads(status_json(run, now)) for run, now in states])
    if not states:
        return "no runs\nsubmit one: python -m launcher local jobs/quickstart.yaml --wait"
    rows = [
        (
            run.id,
            run.scheduler,
            now.state,
            moment(run.submitted),
            now.reason,
        )
        for run, now in states
    ]
    return table(rows, ("RUN", "SCHEDULER", "STATE", "SUBMITTED", "REASON"))


def variables_json(variables: Sequence[model.Variable]) -> str:
    """Variables with their reasons and sources, machine-readable."""
    return dump([v._asdict() for v in variables])


def fabrics(as_json: bool) -> str:
    """The fabrics that are known."""
    if as_json:
        return dump({name: fabric.title for name, fabric in FABRICS.items()})
    return table(((n, f.title) for n, f in FABRICS.items()), ("FABRIC", "WHAT IT IS"))

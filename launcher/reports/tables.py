"""What verbs print: tables for people, JSON for programs.

Owns columns and key names (docs: README, "Output for programs"); every figure comes from its own module.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from launcher import units, workloads
from launcher.fabrics import FABRICS, model
from launcher.reports import estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from launcher.planning.plan import Plan
    from launcher.runs.record import Run
    from launcher.runs.status import Status


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows in columns, two blanks apart, without trailing blanks."""
    every = [list(head), *map(list, rows)] if head else [list(r) for r in rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(every[0]))] if every else []
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in every
    )


def _dump(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)


def plan(made: Plan) -> str:
    """A plan for a person."""
    job = made.job
    where = f"{made.nodes} × {made.slots} = {made.world_size} ranks"
    rows = [
        ("run", made.id),
        ("workload", f"{job.workload}{f', model {job.model}' if job.model else ''}"),
        ("hosts × slots", f"{where} on {made.cluster.gpu or 'CPU'}, fabric {made.fabric.name}"),
        *(_step(made) if workloads.steps(job.workload) else ()),
        ("image", made.image),
        ("walltime", f"{units.brief(job.walltime)}, started again up to {job.restarts} times"),
        ("run folder", made.folder),
    ]
    weighed = ["", estimate.text(made.estimate)] if made.estimate else []
    lines = [table(rows), *weighed, "", "environment of the ranks:"]
    lines += [f"  {v.name}={v.value}" + (f"  # {v.why}" if v.why else "") for v in made.environment]
    lines += [f"  {s.variable}: from secret {s.name}" for s in made.secrets]
    return "\n".join(lines)


def _step(made: Plan) -> Iterator[tuple[str, str]]:
    """What only programs have that work in steps."""
    batch, kept = made.batch, made.job.checkpoint
    counted = f"micro {batch.micro} × accumulation {batch.accumulation} × {_sharing(made)}"
    yield "batch", f"{counted} = {batch.train} samples a step"
    yield "deepspeed", f"{made.preset}, ZeRO stage {_stage(made)}, {made.precision}"
    if workloads.is_script(made.job.workload) or "checkpoint-every" in workloads.options(made.job.workload):
        yield "checkpoints", f"every {kept.every} steps, the newest {kept.keep} are kept"


def _sharing(made: Plan) -> str:
    """What micro batches are counted by: ranks, or groups of ranks that share samples."""
    readers = made.batch.train // (made.batch.micro * made.batch.accumulation)
    shared = made.world_size // readers
    return f"{readers} groups of {shared} ranks" if shared > 1 else f"world size {made.world_size}"


def _stage(made: Plan) -> int:
    return int(made.config.get("zero_optimization", {}).get("stage", 0))


def plan_json(made: Plan) -> str:
    """A plan for a program."""
    return _dump(
        {
            "id": made.id,
            "world_size": made.world_size,
            "nodes": made.nodes,
            "slots": made.slots,
            "batch": {
                "micro": made.batch.micro,
                "accumulation": made.batch.accumulation,
                "global": made.batch.train,
            },
            "deepspeed": {"preset": made.preset, "config": made.config},
            "args": made.args,
            **estimate.data(made.estimate),
            "precision": made.precision,
            "image": made.image,
            "folder": made.folder,
            "environment": {v.name: v.value for v in made.environment},
        }
    )


def status_json(run: Run, now: Status) -> str:
    """A run's status for a program."""
    return _dump(
        {
            "id": run.id,
            "scheduler": run.scheduler,
            "native_id": run.native_id.partition(":")[0],
            "state": now.state,
            "reason": now.reason,
            "exit_code": now.exit_code,
            "hosts": list(now.hosts),
            "folder": str(run.folder),
        }
    )


def status(run: Run, now: Status) -> str:
    """A run's status for a person, with the first failure and how far it came."""
    from launcher.runs import diagnosis, logs

    rows = [
        ("run", run.id),
        ("state", f"{now.state}{f': {now.reason}' if now.reason else ''}"),
        (
            "where",
            f"{run.scheduler} {run.native_id.partition(':')[0]}, {', '.join(now.hosts[:8]) or 'no hosts yet'}",
        ),
        ("submitted", datetime.fromtimestamp(run.submitted).strftime("%Y-%m-%d %H:%M:%S")),
        ("folder", str(run.folder)),
    ]
    if now.exit_code is not None:
        rows.insert(2, ("exit code", str(now.exit_code)))
    records, _ = logs.metrics(run.folder)
    steps = [r for r in records if "loss" in r and "event" not in r]
    if steps:
        rows.append(("progress", progress_line(steps[-1])))
    return "\n".join([table(rows), *diagnosis.report(run, now)])


def progress_line(record: dict[str, Any]) -> str:
    """One metrics record: step, loss (where a reward is what is learnt, that), speed."""
    last = f"/{record['max_steps']}" if record.get("max_steps") else ""
    speed = f", {record['tokens_per_second']:,.0f} tokens/s" if record.get("tokens_per_second") else ""
    name = "reward" if record.get("reward") is not None else "loss"
    return f"step {record.get('step', '?')}{last}, {name} {record[name]:.4f}{speed}"


def run_list(states: Sequence[tuple[Run, Status]], as_json: bool) -> str:
    """Every run with its state, in the order given."""
    if as_json:
        return _dump([json.loads(status_json(run, now)) for run, now in states])
    if not states:
        return "no runs: python -m launcher local jobs/quickstart.yaml --wait"
    rows = [
        (
            run.id,
            run.scheduler,
            now.state,
            datetime.fromtimestamp(run.submitted).strftime("%Y-%m-%d %H:%M"),
            now.reason,
        )
        for run, now in states
    ]
    return table(rows, ("RUN", "SCHEDULER", "STATE", "SUBMITTED", "REASON"))


def sweep(results: Sequence[dict[str, Any]], as_json: bool) -> str:
    """The runs of a sweep, the one with the lowest loss first (on the held-out text, where that was measured)."""
    if as_json:
        return _dump(list(results))
    worst = float("inf")
    ordered = sorted(results, key=lambda r: r["eval_loss"] or r["loss"] or worst)
    keys = list(results[0]["settings"])
    rows = [
        (
            *(r["settings"][key] for key in keys),
            r["state"],
            str(r["step"] or "-"),
            *(f"{r[k]:.4f}" if r[k] is not None else "-" for k in ("loss", "eval_loss")),
            f"{r['tokens_per_second']:,.0f}" if r["tokens_per_second"] else "-",
            r["run"],
        )
        for r in ordered
    ]
    return table(rows, (*keys, "STATE", "STEP", "LOSS", "EVAL LOSS", "TOKENS/S", "RUN"))


def variables_json(variables: Sequence[model.Variable]) -> str:
    """Variables with their reasons and sources, for a program."""
    return _dump([v._asdict() for v in variables])


def fabrics(as_json: bool) -> str:
    """The fabrics that are known."""
    if as_json:
        return _dump({name: fabric.title for name, fabric in FABRICS.items()})
    return table(((n, f.title) for n, f in FABRICS.items()), ("FABRIC", "WHAT IT IS"))

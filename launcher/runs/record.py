"""Run folders: what was submitted, from which plan, and where it is.

Owns `run.json`, `plan.json` and the layout below; how a run is doing is its scheduler's to say.

    <runs>/<id>/plan.json       what was decided, written before it is submitted
                lock.json       what that was made of: lock.py
                run.json        that it was submitted, and as what
                job.sh | manifest.yaml, ds_config.json, hostfile…
                spares, candidates-<attempt>, chosen-<attempt>   idle hosts: templates/slurm/spares.sh.j2
                code/, code.json, programs/   what it carries: submission/snapshot.py
                logs/           job.log, node-<n>.log, rank-<n>.log
                metrics.jsonl   written by rank 0
                trials.jsonl, trials/   of a tuning run: trials.py
                events.jsonl    written by the first host's node entry
                checkpoints/    <tag>/ …
                outcome-<attempt>, unfit-<attempt>, again-<attempt>, exit_code, cancelled
                attempts.jsonl  how each ended, and whether it is started again: docker/restarts.py
                stacks/         what ranks hung in: hangs.py
                profiles/       traces of ranks: profiles.py
                certificate.json   what a proof has shown: certificate.py
    <runs>/bad-hosts.txt        hosts that --exclude-bad leaves out: badhosts.py
"""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.errors import LauncherError, RunNotFoundError
from launcher.files import validation
from launcher.runs import folders, index, reading

if TYPE_CHECKING:
    from launcher.planning.elastic import Size
    from launcher.planning.plan import Plan

RECORD = "run.json"
_PLAN = "plan.json"
_LATEST = 253_402_300_799  # the last second that a date can say
_MOST = 1_000_000  # hosts or slots: lists are made of them
# What each scheduler's ids look like; one of a torn or foreign record must not become a command or a signal.
_NATIVE = {
    "local": re.compile(r"[1-9][0-9]{0,9}(:\w*)?"),
    "slurm": re.compile(r"[1-9][0-9]{0,17}(_[0-9]{1,9})?"),
    "kubernetes": re.compile(r"[^/:]+/[^/:]+/[^/:]+:.*"),
}


class Run(NamedTuple):
    """A submitted job. `native_id` is the scheduler's own, '' before it is submitted; `submitted` is Unix time."""

    id: str
    scheduler: str
    native_id: str
    folder: Path
    submitted: float
    nodes: int
    slots: int
    place: dict[str, str]  # Kubernetes: namespace and context
    former: tuple[str, ...] = ()  # the native ids before a resume, oldest first


def reserve(plan: Plan) -> Plan:
    """`plan` with a folder of its own: the id, or the id with the next free number. The folder is made.

    Raises SpecError when the runs folder cannot be written.
    """
    folder = folders.make_next(Path(plan.workspace.runs), plan.id, first=plan.id)
    return plan._replace(id=folder.name)


def prepare(plan: Plan, files: dict[str, str]) -> None:
    """Write `files` and `plan.json` into the plan's folder."""
    folders.write_files(Path(plan.folder), {**files, _PLAN: plan_text(plan)})


def abandon(plan: Plan) -> None:
    """Remove the folder of a run that was never submitted."""
    shutil.rmtree(plan.folder, ignore_errors=True)


def plan_text(plan: Plan) -> str:
    """`plan.json`, a line a key: both files as they were written, and what was decided from them."""
    facts = {
        "id": plan.id,
        "nodes": plan.nodes,
        "slots": plan.slots,
        "image": plan.image,
        "batch": plan.batch._asdict(),
        "deepspeed": {"preset": plan.preset, "config": plan.config},
        "precision": plan.precision,
        "args": plan.args,
        "environment": {v.name: v.value for v in plan.environment},
        "secrets": [s._asdict() for s in plan.secrets],
        **({"tuning": plan.tuning.record} if plan.tuning else {}),
        **({"sizes": [_size(size) for size in plan.sizes]} if plan.sizes else {}),
        "job": validation.written(plan.job),
        "cluster": validation.written(plan.cluster),
    }
    lines = (f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _size(size: Size) -> dict[str, Any]:
    return {"nodes": size.nodes, "batch": size.batch._asdict(), "config": size.config}


def record(run: Run, native_id: str, submitted: float) -> Run:
    """Write run.json, the sign that the run was submitted, now or again. Returns the Run as it is now."""
    former = (*run.former, run.native_id) if run.native_id else ()
    first = run.submitted if run.native_id else submitted
    again = run._replace(native_id=native_id, submitted=first, former=former)
    text = json.dumps({**again._asdict(), "folder": str(run.folder)}, indent=1)
    folders.write_files(run.folder, {RECORD: f"{text}\n"})
    index.remember(run.folder.parent)
    return again


def listed(runs: Path) -> tuple[list[Run], list[str]]:
    """Every run below `runs`, newest first, and why each broken record is none.

    Raises SpecError when `runs` cannot be read.
    """
    every, broken = [], []
    for path in folders.records(runs, (RECORD,)):
        try:
            every.append(read(path))
        except LauncherError as error:
            broken.append(str(error))
    return sorted(every, key=lambda run: run.submitted, reverse=True), broken


def find(runs: Path, name: str) -> Run:
    """The run whose id is `name` or starts with it alone. Raises RunNotFoundError."""
    return folders.find(runs, name, {RECORD: read})


def current(run: Run) -> Run:
    """`run` as its record says now: another command may have submitted it. Raises RunNotFoundError for a torn one."""
    path = run.folder / RECORD
    return read(path) if path.exists() else run


def read(path: Path) -> Run:
    """The run of a run.json. Raises RunNotFoundError when it cannot be read."""
    data = read_json(path)
    try:
        run = Run(
            id=str(data["id"]),
            scheduler=str(data["scheduler"]),
            native_id=str(data["native_id"]),
            folder=path.parent,
            submitted=float(data["submitted"]),
            nodes=int(data["nodes"]),
            slots=int(data["slots"]),
            place={str(key): str(value) for key, value in dict(data["place"]).items()},
            former=tuple(map(str, data.get("former", ()))),
        )
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise _broken(path, why(error)) from None
    if not is_native(run.scheduler, run.native_id):
        raise _broken(path, f"{run.native_id[:40]!r} is no id of {run.scheduler}")
    if not (math.isfinite(run.submitted) and 0 <= run.submitted <= _LATEST):
        raise _broken(path, f"submitted {run.submitted} is no time")
    if not (1 <= run.nodes <= _MOST and 1 <= run.slots <= _MOST):
        raise _broken(path, f"{run.nodes} hosts of {run.slots} slots")
    return run


def is_native(scheduler: str, native_id: str) -> bool:
    """Whether it looks like an id of the scheduler's."""
    pattern = _NATIVE.get(scheduler)
    return not pattern or bool(pattern.fullmatch(native_id))


def prepared(folder: Path, scheduler: str) -> Run:
    """The run that a folder was prepared for; nothing is submitted. Raises RunNotFoundError when it cannot be read."""
    data = read_json(folder / _PLAN)
    try:
        kubernetes = data["cluster"].get("kubernetes") or {}
        place = {key: str(kubernetes.get(key) or "") for key in ("namespace", "context")}
        nodes, slots = int(data["nodes"]), int(data["slots"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise _broken(folder / _PLAN, why(error)) from None
    return Run(
        id=folder.name,
        scheduler=scheduler,
        native_id="",
        folder=folder,
        submitted=0.0,
        nodes=nodes,
        slots=slots,
        place=place if scheduler == "kubernetes" else {},
    )


def read_json(path: Path) -> Any:
    """What is in a record. Raises RunNotFoundError when it cannot be read."""
    try:
        return strict_json(reading.text(path))
    except OSError as error:
        raise _broken(path, error.strerror or "OSError") from None
    except (ValueError, RecursionError):
        raise _broken(path, "it is not JSON") from None


def strict_json(text: str) -> Any:
    """What `text` holds. Raises ValueError also for NaN and infinities, which are Python's alone."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"{number} is no number of JSON")
    return value


def why(error: Exception) -> str:
    """What is wrong with a record whose reading raised `error`."""
    missing = isinstance(error, KeyError)
    return f"{error} is missing" if missing else "a value is of another kind than this launcher writes"


def _broken(path: Path, why: str) -> RunNotFoundError:
    return RunNotFoundError(f"{path} cannot be read: {why}")

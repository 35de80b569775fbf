"""Run folders: what was submitted, from which plan, and where it is.

Owns `run.json` and the layout below; how a run is doing is its scheduler's to say.

    <runs>/<id>/run.json        this module's record, written last
                job.sh | manifest.yaml, ds_config.json, hostfile…
                logs/           job.log, node-<n>.log, rank-<n>.log
                metrics.jsonl   written by rank 0
                checkpoints/    <tag>/ …
                outcome-<attempt>, unfit-<attempt>, exit_code, cancelled
    <runs>/bad-hosts.txt        hosts that --exclude-bad leaves out: badhosts.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from launcher.errors import RunNotFoundError, SpecError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.planning.plan import Plan

_RECORD = "run.json"


class Run(NamedTuple):
    """A submitted job. `native_id` is the scheduler's own; `submitted` is Unix time."""

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
    number = 1
    while True:
        wanted = plan.id if number == 1 else f"{plan.id}-{number}"
        made = plan._replace(id=wanted)
        try:
            Path(made.folder).mkdir(parents=True)
        except FileExistsError:
            number += 1
        except OSError as error:
            raise SpecError(
                f"the runs folder {plan.workspace.runs} cannot be written: {error.strerror}",
                hint="set LAUNCHER_RUNS to a folder that can, shared by all hosts",
            ) from None
        else:
            return made


def abandon(plan: Plan) -> None:
    """Remove the folder of a run that was never submitted."""
    shutil.rmtree(plan.folder, ignore_errors=True)


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Each file of `files` below `folder`, whole or not at all."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(text, encoding="utf-8", errors="surrogateescape")
        draft.replace(path)


def record(plan: Plan, scheduler: str, native_id: str, submitted: float) -> Run:
    """Write run.json, the sign that the run exists. Returns the Run."""
    kubernetes = plan.cluster.kubernetes
    place = (
        {"namespace": kubernetes.namespace or "", "context": kubernetes.context or ""}
        if scheduler == "kubernetes"
        else {}
    )
    run = Run(
        id=plan.id,
        scheduler=scheduler,
        native_id=native_id,
        folder=Path(plan.folder),
        submitted=submitted,
        nodes=plan.nodes,
        slots=plan.slots,
        place=place,
    )
    _write(run)
    return run


def resumed(run: Run, native_id: str) -> Run:
    """Record that the run goes on under another native id. Returns the Run as it is now."""
    again = run._replace(native_id=native_id, former=(*run.former, run.native_id))
    _write(again)
    return again


def _write(run: Run) -> None:
    text = json.dumps({**run._asdict(), "folder": str(run.folder)}, indent=1)
    write_files(run.folder, {_RECORD: text + "\n"})


def listed(runs: Path) -> Iterator[Run]:
    """Every run below `runs`, newest first; folders without a readable record are passed over."""
    found = [run for path in runs.glob(f"*/{_RECORD}") if (run := _read(path))]
    yield from sorted(found, key=lambda r: r.submitted, reverse=True)


def find(runs: Path, name: str) -> Run:
    """The run whose id is `name` or starts with it alone. Raises RunNotFoundError."""
    exact = _read(runs / name / _RECORD) if name and "/" not in name else None
    if exact:
        return exact
    every = list(listed(runs))
    matches = [run for run in every if name and run.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RunNotFoundError(
            f"{name!r} starts {len(matches)} runs",
            hint="name one: " + ", ".join(r.id for r in matches[:5]) + (", …" if len(matches) > 5 else ""),
        )
    hint = did_you_mean(name, [r.id for r in every]) or "`python -m launcher list` shows them"
    raise RunNotFoundError(f"no run {name!r} in {runs}", hint=hint)


def _read(path: Path) -> Run | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Run(
            id=str(data["id"]),
            scheduler=str(data["scheduler"]),
            native_id=str(data["native_id"]),
            folder=path.parent,
            submitted=float(data["submitted"]),
            nodes=int(data["nodes"]),
            slots=int(data["slots"]),
            place=dict(data["place"]),
            former=tuple(map(str, data.get("former", ()))),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None

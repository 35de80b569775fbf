"""What finished runs leave for forecasts: a probe's figures, and of training steps' time, peak memory, checkpoints.

Owns the reading of run folders and the writing of NAME.measured.json; its form is files/measured.py's, what a plan
makes of it planning/forecast.py's.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher import atomic
from launcher.errors import LauncherError, Problem, SpecError
from launcher.files import measured as files_measured
from launcher.files import validation
from launcher.planning import forecast, recorded
from launcher.runs import metrics, reading, record
from launcher.sizing import gpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from launcher.files.cluster import Cluster
    from launcher.files.measured import Measured, Probe
    from launcher.planning.fit import Estimate
    from launcher.runs.metrics import Record

WORKLOAD, FILE = "probe", "probe.json"
_LEAST = 3  # steps of a run, beside its first, which compiles and warms up


class Folder(NamedTuple):
    """A run's folder and its plan.json."""

    name: str
    path: Path
    plan: dict[str, Any]

    @property
    def probes(self) -> bool:
        """Whether it is a run of the workload that measures."""
        return bool(_dict(self.plan.get("job")).get("workload") == WORKLOAD)


class Taken(NamedTuple):
    """What was measured of a cluster, with these runs in it; `passed`: why others are not."""

    measured: Measured
    runs: tuple[str, ...]
    passed: tuple[str, ...]


def folder(name: str, path: Path) -> Folder:
    """A run's folder. Raises RunNotFoundError where it has no plan.json that can be read."""
    return Folder(name, path, _dict(record.read_json(path / "plan.json")))


def is_of(run: Folder, cluster: Cluster) -> bool:
    """Whether the run was on hosts like those of `cluster`, in the same partition or namespace."""
    then, now = _dict(run.plan.get("cluster")), validation.written(cluster)
    keys = (
        ("gpu",),
        ("slots",),
        ("slurm", "partition"),
        ("kubernetes", "namespace"),
        ("kubernetes", "context"),
    )
    return all(_below(then, path) == _below(now, path) for path in keys)


def probe_text(run: Folder) -> str | None:
    """The probe.json of a run; None where its folder has none (yet, or on hosts that this machine does not see)."""
    try:
        return reading.text(run.path / FILE)
    except (OSError, UnicodeDecodeError):
        return None


def of_probe(run: Folder, text: str, cluster: Cluster, *, now: float) -> Measured:
    """What a probe measured, as the file beside the cluster's. `now`: Unix time.

    Raises SpecError for figures that are none, and for those of other hosts than the cluster file says.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise SpecError(
            f"{run.name}: its {FILE} is not JSON", hint="`launcher cluster probe` measures anew"
        ) from None
    probe, violations = validation.read(files_measured.Probe, data)
    if probe is None:
        raise SpecError(f"{run.name}: its {FILE} is none: {violations[0].message}")
    if problems := list(_other_hosts(probe, cluster)):
        raise SpecError(*problems)
    return files_measured.Measured(
        format=files_measured.FORMAT,
        measured=_date(now),
        gpu=cluster.gpu_name,
        slots=cluster.slots,
        image=str(run.plan.get("image", "")),
        run=run.name,
        probe=probe,
        runs=[],
    )


def _other_hosts(probe: Probe, cluster: Cluster) -> Iterable[Problem]:
    """What the hosts are that the cluster file does not say; what they have is never guessed to be right."""
    hint = "nothing was kept: correct the cluster file, and probe again"
    if probe.slots != cluster.slots:
        yield Problem(
            f"the hosts ran {probe.slots} ranks, and the cluster file says slots: {cluster.slots}", hint
        )
    if (probe.device == "cuda") != (cluster.gpu is not None):
        have = "have a GPU" if probe.device == "cuda" else "ran on the CPU"
        yield Problem(f"the hosts {have}, and the cluster file says gpu: {cluster.gpu_name or 'none'}", hint)
    elif cluster.gpu_name in gpus.names():
        seen = next((h for h in probe.hosts if gpus.fitting(h.gpu, h.memory) != cluster.gpu_name), None)
        if seen and gpus.fitting(seen.gpu, seen.memory):
            what = f"{seen.host} has {seen.gpu} ({gpus.fitting(seen.gpu, seen.memory)})"
            yield Problem(f"{what}, and the cluster file says gpu: {cluster.gpu_name}", hint)


def with_runs(known: Measured, folders: Iterable[Folder], *, now: float) -> Taken:
    """`known` with what these runs took; of a run that is in it already the newest figures hold."""
    before = {ran.run: ran for ran in known.runs}
    taken, passed = {}, []
    for run in folders:
        ran = figures(run, known.probe)
        if isinstance(ran, str):
            passed.append(f"{run.name}: {ran}")
        else:
            taken[run.name] = ran
    runs = list({**before, **taken}.values())
    return Taken(dataclasses.replace(known, measured=_date(now), runs=runs), tuple(taken), tuple(passed))


def figures(run: Folder, probe: Probe) -> files_measured.Ran | str:
    """What a run took, or why that says nothing."""
    if _below(run.plan, ("deepspeed", "config", "wall_clock_breakdown")):
        return "profile.breakdown has made its steps slower"
    records, _ = metrics.read(run.path)
    if not any(e.texts.get("status") == "done" for e in metrics.events(records, "end")):
        return "it has not ended well"
    latest = {r.step: r for r in metrics.steps(records) if r.figures.get("step_seconds", 0) > 0}
    times = [latest[step].figures["step_seconds"] for step in sorted(latest)[1:]]
    if len(times) < _LEAST:
        return f"it logged {len(times)} steps after its first, and {_LEAST} are the least"
    estimate = recorded.estimate(run.plan)
    ranks = {r.figures.get("world_size") for r in metrics.events(records, "start")} - {None}
    if estimate and (others := ranks - {estimate.machine.world}):
        counts = ", ".join(f"{count:.0f}" for count in sorted(filter(None, others)))
        return f"it ran on {counts} ranks, and its plan is of {estimate.machine.world}"
    parts = forecast.predicted(estimate, str(run.plan.get("precision")), probe) if estimate else None
    if estimate is None or parts is None or not parts.step:
        return "how long its steps should take is not estimated"
    return _ran(run, estimate, records, times=times, predicted=parts.step)


def _ran(
    run: Folder, estimate: Estimate, records: Sequence[Record], *, times: list[float], predicted: float
) -> files_measured.Ran:
    saves = [
        e.figures["seconds"] for e in metrics.events(records, "checkpoint") if e.figures.get("seconds", 0) > 0
    ]
    peaks = [r.figures["memory_bytes"] for r in metrics.steps(records) if "memory_bytes" in r.figures]
    on_gpu = estimate.machine.gpu is not None  # on a CPU it is the process's, with all that it has read
    return files_measured.Ran(
        run=run.name,
        predicted=predicted,
        passes=forecast.passes(estimate),
        seconds=statistics.median(times),
        memory=int(max(peaks)) if peaks and on_gpu else None,
        planned_memory=estimate.evaluation.memory.slot.total if on_gpu and estimate.model.measured else None,
        checkpoint_seconds=statistics.median(saves) if saves else None,
        checkpoint_bytes=estimate.saving.size if saves and estimate.saving else None,
    )


def keep(path: Path, found: Measured) -> Path | None:
    """Write `found` to `path`. Returns where what was there before is kept, None where there was nothing.

    Raises SpecError where it cannot be written.
    """
    former = path.with_name(f"{path.name}.1")
    text = f"{json.dumps(written(found), indent=1, ensure_ascii=False)}\n"
    try:
        before = path.read_bytes() if path.exists() else None
        if before is not None:
            atomic.write(former, before)
        atomic.write(path, atomic.encoded(text))
    except OSError as error:
        hint = "use a cluster file in a folder that you can write to"
        raise SpecError(f"{path} cannot be written: {error.strerror}", hint=hint) from None
    return former if before is not None else None


def written(model: Any) -> dict[str, Any]:
    """A model of files/measured.py as plain data, with every field."""
    data: dict[str, Any] = dataclasses.asdict(model)
    return data


def _date(now: float) -> str:
    return datetime.datetime.fromtimestamp(now, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _below(data: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        data = _dict(data).get(key)
    return data


def runs_here(runs: Path) -> list[Folder]:
    """The folders of all runs below `runs` that can be read, oldest first."""
    found = []
    for run in reversed(record.listed(runs)[0]):
        try:
            found.append(folder(run.id, run.folder))
        except LauncherError:
            continue
    return found

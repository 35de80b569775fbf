"""A pipeline's record: its stages, and the run of each.

Owns `<runs>/<id>/pipeline.json`. The stages' runs are ordinary ones; a plain run is a pipeline of one stage without
a name, and has no such file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from launcher.errors import LauncherError, RunNotFoundError
from launcher.namedtuple import NamedTuple
from launcher.runs import folders, record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from launcher.runs.record import Run
    from launcher.runs.sweeps import Sweep

RECORD = "pipeline.json"


class PipelineRun(NamedTuple):
    """Stage → its run, in order (None when its folder is gone), and the stages that each needs.

    `after`: the folders of runs that must succeed before the first stage, where a command waits for them.
    `leader`: the native id of what submits the stages inside the cluster; '' where a command or the scheduler does.
    """

    id: str
    runs: Mapping[str, Run | None]
    needs: Mapping[str, tuple[str, ...]]
    after: tuple[str, ...] = ()
    leader: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is one run, of a job."""
        return "" in self.runs

    @property
    def present(self) -> list[Run]:
        """The runs whose folders are there."""
        return [run for run in self.runs.values() if run]


def of_run(run: Run) -> PipelineRun:
    """A run by itself."""
    return PipelineRun(run.id, {"": run}, {"": ()})


def of_sweep(sweep: Sweep) -> PipelineRun:
    """The runs of a sweep, none of which needs another."""
    home = sweep.folder.parent
    runs = {name: None if "/" in name else _run(home / name, "") for name in sweep.runs}
    return PipelineRun(sweep.id, runs, dict.fromkeys(runs, ()))


def write(folder: Path, scheduler: str, pipeline: PipelineRun) -> None:
    """Write the record of all stages, submitted or not."""
    stages = [
        {"stage": name, "run": run.id, "needs": pipeline.needs[name]}
        for name, run in pipeline.runs.items()
        if run
    ]
    data = {
        "id": folder.name,
        "scheduler": scheduler,
        "after": pipeline.after,
        **({"leader": pipeline.leader} if pipeline.leader else {}),
        "stages": stages,
    }
    folders.write_files(folder, {RECORD: json.dumps(data, indent=1) + "\n"})


def find(runs: Path, name: str) -> PipelineRun:
    """The run or pipeline whose id is `name` or starts with it alone. Raises RunNotFoundError."""
    return folders.find(runs, name, READERS)


def read(path: Path) -> PipelineRun:
    """The pipeline of a pipeline.json. Raises RunNotFoundError when it cannot be read."""
    data = record.read_json(path)
    try:
        # records of the first version name no scheduler, and only stages that were submitted
        scheduler = str(data.get("scheduler", ""))
        names = {str(entry["stage"]): str(entry["run"]) for entry in data["stages"]}
        needs = {str(entry["stage"]): tuple(map(str, entry["needs"])) for entry in data["stages"]}
        after, leader = tuple(map(str, data.get("after", ()))), str(data.get("leader", ""))
        wrong = [need for named in needs.values() for need in named if need not in needs]
    except (KeyError, TypeError, AttributeError) as error:
        raise RunNotFoundError(f"{path} cannot be read: {record.why(error)}") from None
    if leader and not record.is_native("kubernetes", leader):  # it must not become a path of the server
        raise RunNotFoundError(f"{path} cannot be read: {leader[:40]!r} is no id of kubernetes")
    if not names or wrong or any("/" in run for run in names.values()):
        raise RunNotFoundError(f"{path} cannot be read: it has no stages, or needs one that it does not have")
    runs = path.parent.parent
    stages = {stage: _run(runs / run, scheduler) for stage, run in names.items()}
    return PipelineRun(path.parent.name, stages, needs, after=after, leader=leader)


def _run(folder: Path, scheduler: str) -> Run | None:
    try:
        if scheduler and not (folder / record.RECORD).exists():
            return record.prepared(folder, scheduler)
        return record.read(folder / record.RECORD)
    except (LauncherError, OSError):
        return None


READERS = {record.RECORD: lambda path: of_run(record.read(path)), RECORD: read}

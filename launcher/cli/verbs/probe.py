"""cluster probe, cluster measured: what the hosts of a cluster really do, kept beside its file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs import shared
from launcher.cli.verbs.shared import JOB_FAILED, OK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.cli import options
    from launcher.files.cluster import Cluster
    from launcher.files.measured import Measured
    from launcher.runs.measuring import Folder
    from launcher.runs.record import Run

JOB = "jobs/probe.yaml"


def probe(given: options.Cluster) -> int:
    """Run the probe on a cluster, wait for it, and keep what it measured."""
    from launcher import discovery, schedulers
    from launcher.files import load

    named = _require_cluster(given, "probe")
    load.load_cluster(named)
    where = given.on or discovery.here("--on")
    run = _submitted(named, schedulers.ALIASES.get(where, where), given)
    if not _ends_well(run):
        return JOB_FAILED
    _keep(named, [run.id])
    return OK


def measured(given: options.Cluster) -> int:
    """Keep what finished runs took: those of --from, else every one here that ran on this cluster."""
    _keep(_require_cluster(given, "measured"), given.runs)
    return OK


def complete(
    path: Path, scheduler: str, given: options.Cluster, write: Callable[[Measured | None], str]
) -> int:
    """Measure the hosts of the cluster file at `path`, which was just written by `write`, and write it with figures."""
    from launcher import atomic

    run = _submitted(str(path.absolute()), scheduler, given)
    if not _ends_well(run):
        return JOB_FAILED
    found = _keep(str(path.absolute()), [run.id])
    if path.read_bytes() != atomic.encoded(write(None)):
        say(f"{path} has changed meanwhile and stays as it is")
        return OK
    atomic.write(path, atomic.encoded(write(found)))
    say(f"{path}: written again, with what was measured")
    return OK


def _require_cluster(given: options.Cluster, what: str) -> str:
    """The cluster that is named. Raises SpecError where none is."""
    from launcher.errors import SpecError

    if not given.subject:
        raise SpecError(f"cluster {what} needs a CLUSTER", hint="a name of jobs/clusters/, or a cluster file")
    return given.subject


def _submitted(named: str, scheduler: str, asked: options.Cluster) -> Run:
    """The probe's run, by the way of every job: plan, files, submission. Of two hosts, where nobody says how many."""
    from launcher import ROOT
    from launcher.cli import options
    from launcher.cli.verbs import launch
    from launcher.files import load
    from launcher.submission import pipelines

    cluster = load.load_cluster(named)
    hosts = asked.nodes or (1 if scheduler == "local" else min(cluster.hosts or 2, 2))
    settings = [f"nodes={hosts}", f"args.scratch={json.dumps(cluster.scratch)}", *asked.settings]
    given = options.Launch(
        job=JOB,
        cluster=named,
        settings=settings,
        scheduler=scheduler,
        dry_run=False,
        output=None,
        force=False,
        wait=True,
    )
    stages = load.load(str(ROOT / JOB), named, settings)
    launch.require_all(given, pipelines.plan_all(stages, shared.planner(), scheduler))
    pipeline, prepared = pipelines.prepare(stages, shared.planner(), scheduler, ())
    run = pipelines.submit_all(pipeline, prepared, scheduler).runs[""]
    assert run
    say(f"{run.id}: submitted to {scheduler} on {hosts} host{'s' if hosts > 1 else ''}; folder {run.folder}")
    say(
        f"if this command ends early, `launcher cluster measured {named} --from {run.id}` keeps what it measures"
    )
    return run


def _ends_well(run: Run) -> bool:
    from launcher import schedulers
    from launcher.reports import progress

    return progress.follow(run, schedulers.load(run.scheduler).status) == OK


def _keep(named: str, runs: Sequence[str]) -> Measured:
    """Put what these runs measured beside the cluster's file, show it, and return it."""
    from launcher.files import load
    from launcher.reports import forecasts
    from launcher.runs import measuring

    kept = load.measured_path(load.load_cluster_at(named)[1])
    found, passed = _collected(named, kept, runs)
    former = measuring.keep(kept, found)
    print(forecasts.measured(found))
    for why in passed:
        say(f"passed over {why}")
    before = f"; what was there before is {former}" if former else ""
    say(f"{kept}: written{before}; `launcher plan JOB --cluster {named}` has a forecast now")
    return found


def _collected(named: str, kept: Path, runs: Sequence[str]) -> tuple[Measured, Sequence[str]]:
    """What was measured of the cluster until now, with these runs, and why some of them say nothing.

    Without runs: those here that ran on it. Raises SpecError where nothing was measured, or on other hosts.
    """
    from launcher.errors import Problem, SpecError
    from launcher.files import load, measured
    from launcher.planning import workspace
    from launcher.runs import measuring

    cluster = load.load_cluster(named)
    folders = [_folder(name) for name in runs]
    if not runs:
        folders = [f for f in measuring.runs_here(workspace.runs()) if measuring.is_of(f, cluster)]
    old = measured.beside(kept, str(kept), cluster) if kept.exists() else None
    if isinstance(old, Problem):
        say(f"warning: {old}")
        old = None
    known = _newest_probe(folders, cluster, old, asked=bool(runs))
    if known is None:
        hint = f"measure it first: launcher cluster probe {named}"
        raise SpecError(f"nothing was measured of {named} with which runs can be compared", hint=hint)
    trained = [f for f in folders if not f.probes]
    if old is not None and known.run != old.run:  # what earlier runs took, beside the new probe
        trained = [*_still_here(old), *trained]
    taken = measuring.with_runs(known, trained, now=time.time())
    return taken.measured, taken.passed if runs else ()


def _newest_probe(
    folders: Sequence[Folder], cluster: Cluster, old: Measured | None, *, asked: bool
) -> Measured | None:
    """The newest probe of `folders`, or `old`. `asked`: they were named, so that each must say something."""
    from launcher.errors import SpecError
    from launcher.runs import measuring

    known = old
    for run in (f for f in folders if f.probes):
        text = measuring.probe_text(run) or (_from_log(run) if asked else None)
        try:
            found = measuring.of_probe(run, text, cluster, now=time.time()) if text else None
        except SpecError:
            if asked:
                raise
            continue
        if found is None and asked:
            raise SpecError(f"{run.name} has measured nothing", hint=f"`launcher logs {run.name}` says why")
        if found and (asked or known is None or found.probe.time > known.probe.time):
            known = found if known is None or known.run != run.name else known
    return known


def _still_here(old: Measured) -> list[Folder]:
    """The runs of a measured file whose folders are still here."""
    from launcher.errors import LauncherError

    found = []
    for ran in old.runs:
        try:
            found.append(_folder(ran.run))
        except LauncherError:
            say(f"{ran.run} is no longer here, and was measured against an earlier probe: left out")
    return found


def _folder(name: str) -> Folder:
    """The folder of a run by its id, the start of it, or a path. Raises RunNotFoundError."""
    from launcher.planning import workspace
    from launcher.runs import measuring, record

    if "/" in name:
        return measuring.folder(Path(name).resolve().name, Path(name))
    run = record.find(workspace.runs(), name)
    return measuring.folder(run.id, run.folder)


def _from_log(run: Folder) -> str | None:
    """A probe's figures from its log, where the run folder is in the cluster."""
    from launcher import schedulers
    from launcher.errors import LauncherError
    from launcher.runs import record
    from launcher.runs.status import Selection

    mark = "probe.json: {"
    try:
        own = record.read(run.path / record.RECORD)
        for line in schedulers.load(own.scheduler).logs(own, Selection(rank=0)):
            if mark in line:
                return line[line.index(mark) + len(mark) - 1 :]
    except LauncherError:
        return None
    return None

"""From the command line's words to valid jobs and clusters, or every problem of their files at once.

Owns finding the files, and which settings are for the cluster's. A job is a pipeline of one stage without a name.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from launcher import ROOT
from launcher.errors import Place, Problem, SpecError, did_you_mean, shown
from launcher.files import document as files_document
from launcher.files import paths
from launcher.files import pipeline as files_pipeline
from launcher.files import settings as files_settings
from launcher.files import stages as files_stages
from launcher.files.cluster import Cluster
from launcher.files.document import Reader
from launcher.files.job import Job
from launcher.files.stages import Named, Stage, Stages
from launcher.files.validation import validate
from launcher.images import facts as images_facts
from launcher.namedtuple import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.errors import Places
    from launcher.files.document import Document
    from launcher.files.measured import Measured
    from launcher.files.settings import Setting
    from launcher.images.facts import Facts
    from launcher.sizing.models import Found


Value = TypeVar("Value")
_NOWHERE: Places = MappingProxyType({"job": MappingProxyType({}), "cluster": MappingProxyType({})})


class Loaded(NamedTuple):
    """A job and the cluster it runs on. `places`: where their fields are written, for what is found wrong later.

    `image_facts`: what the image holds, where a file beside the cluster's says it (NAME.image.json).
    `hub`: what is known of a model of the hub (planning/hub.py). `measured`: what was measured of the cluster, where a
    file beside its own says it, or why that is of no use (NAME.measured.json). `beside`: the job file's folder.
    """

    job: Job
    cluster: Cluster
    places: Places = _NOWHERE
    image_facts: Facts | None = None
    hub: Found | None = None
    measured: Measured | Problem | None = None
    beside: Path = Path()


def load(path: str, cluster: str | None = None, settings: Sequence[str] = ()) -> Stages:
    """The stages of the job or pipeline at `path`; their jobs are read by `load_stage`.

    Raises SpecError with all problems of a pipeline's file and of the words of `--set`.
    """
    reader, problems = Reader(), list[Problem]()
    parsed = (_valid(functools.partial(files_settings.parse, word), problems) for word in settings)
    given = [setting for setting in parsed if setting]
    document = _valid(lambda: reader.read(files_document.find(path), path), problems)
    named = Named(cluster, Place("--cluster"), Path()) if cluster else None
    if document and "pipeline" in document.data:
        stages, wrong = files_stages.read(document, given, named, reader)
        problems += wrong
        if stages and not problems:
            return stages
    elif document is None and named:
        _cluster_document(named, reader, problems)
    elif not problems:
        stage = Stage("", path, None, settings=tuple(given), needs=(), cluster=named, reader=reader)
        return Stages("", (stage,))
    raise _refusal(problems)


def load_stage(stage: Stage, folders: Mapping[str, str] = MappingProxyType({})) -> Loaded:
    """The stage's job and cluster. `folders`: the run folder of each stage that it needs.

    Raises SpecError with all problems of both files.
    """
    problems: list[Problem] = []
    document = _job_document(stage, problems)
    job, named = None, stage.cluster
    if document:
        for setting in stage.settings:
            if not _is_for_cluster(setting):
                value = files_pipeline.filled(setting.value, folders) if stage.name else setting.value
                files_settings.apply(document, setting._replace(value=value))
        own = document.data.get("cluster")
        if named is None and own is not None and not isinstance(own, (bool, dict, list)):
            named = Named(str(own), document.place(("cluster",)), paths.folder(stage.source))
        elif named is None and own is None:
            hint = f"add `cluster:` to the job, or --cluster NAME ({', '.join(cluster_names())})"
            problems.append(Problem("no cluster is named", hint, Place(stage.source, 1, 1)))
    site = _cluster_document(named, stage.reader, problems) if named else None
    if site:
        for setting in filter(_is_for_cluster, stage.settings):
            files_settings.apply(site, setting.below("cluster"))
        cluster = validate(site, Cluster, problems)
        facts = _valid(functools.partial(images_facts.beside, site.path, site.source), problems)
    if document:
        document.deepspeed = deepspeed_version(cluster, facts) if site and cluster else ""
        of_job: list[Problem] = []
        job = validate(document, Job, of_job)
        problems[:0] = of_job  # the job is read first
    if document is None or site is None or job is None or cluster is None or problems:
        raise _refusal(problems)
    places = {"job": document.places, "cluster": site.places}
    beside = paths.folder(stage.source)
    job = paths.absolute(job, beside)
    return Loaded(job, cluster, places, facts, measured=_measured(site, cluster), beside=beside)


def measured_path(cluster: Path) -> Path:
    """Where what was measured of the cluster of this file is kept."""
    return cluster.with_suffix(".measured.json")


def _measured(site: Document, cluster: Cluster) -> Measured | Problem | None:
    if not files_document.exists(path := measured_path(site.path)):
        return None
    from launcher.files import measured  # most clusters were not measured

    return measured.beside(path, f"{site.source.rpartition('.')[0]}.measured.json", cluster)


def load_cluster(named: str) -> Cluster:
    """The cluster of a name or file. Raises SpecError with all that is wrong with it."""
    return load_cluster_at(named)[0]


def load_cluster_at(named: str) -> tuple[Cluster, Path]:
    """The cluster of a name or file, and its file. Raises as `load_cluster` does."""
    problems: list[Problem] = []
    site = _cluster_document(Named(named, Place("--cluster"), Path()), Reader(), problems)
    cluster = validate(site, Cluster, problems) if site else None
    if site is None or cluster is None or problems:
        raise _refusal(problems)
    return cluster, site.path


def deepspeed_version(cluster: Cluster, facts: Facts | None) -> str:
    """The version of the ranks' DeepSpeed: what the cluster file says, else its image's facts; '' where none does."""
    return cluster.deepspeed_version or (facts.versions.get("deepspeed", "") if facts else "")


def cluster_names() -> list[str]:
    """The clusters that ship with the project."""
    return sorted(p.stem for p in (ROOT / "jobs" / "clusters").glob("*.yaml"))


def _valid(read: Callable[[], Value], problems: list[Problem]) -> Value | None:
    """What `read` returns, or None with what is wrong with it added to `problems`."""
    try:
        return read()
    except SpecError as error:
        problems += error.problems
        return None


def _is_for_cluster(setting: Setting) -> bool:
    return setting.keys[0] == "cluster" and len(setting.keys) > 1


def _refusal(problems: list[Problem]) -> SpecError:
    return SpecError(*sorted(problems, key=lambda p: p.place or Place("")))


def _job_document(stage: Stage, problems: list[Problem]) -> Document | None:
    path = files_document.find(stage.source)
    if stage.place and not files_document.exists(path):
        problems.append(Problem(f"there is no job file {stage.source}", "check the path", stage.place))
        return None
    document = _valid(lambda: stage.reader.read(path, stage.source), problems)
    if document and stage.place and "pipeline" in document.data:
        what = f"{stage.source} is a pipeline, and a stage is a job"
        problems.append(Problem(what, "write its stages here", stage.place))
        return None
    return document


def _cluster_document(named: Named, reader: Reader, problems: list[Problem]) -> Document | None:
    if named.name.endswith((".yaml", ".yml")) or "/" in named.name:
        path = named.beside / named.name
        source, what = str(path), f"there is no cluster file {path}"
        option = named.place.source == "--cluster"
        hint = "check the path" if option else "a path starts at the folder of the file that names it"
    else:
        path = ROOT / "jobs" / "clusters" / f"{named.name}.yaml"
        source, what = f"jobs/clusters/{named.name}.yaml", f"unknown cluster {shown(named.name)}"
        hint = did_you_mean(named.name, cluster_names())
    if not files_document.exists(path):
        problems.append(Problem(what, hint, named.place))
        return None
    return _valid(lambda: reader.read(path, source), problems)

"""From the command line's words to valid jobs and clusters, or every problem of their files at once.

Owns finding the files, and which settings are for which. A job is a pipeline of one stage, which has no name.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from launcher import ROOT
from launcher.errors import Place, Problem, SpecError, did_you_mean, shown
from launcher.files import document as files_document
from launcher.files import pipeline as files_pipeline
from launcher.files import settings as files_settings
from launcher.files.cluster import Cluster
from launcher.files.document import Reader
from launcher.files.job import Job
from launcher.files.validation import validate
from launcher.images import facts as images_facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.errors import Places
    from launcher.files.document import Document
    from launcher.files.settings import Setting
    from launcher.images.facts import Facts


class Loaded(NamedTuple):
    """A job and the cluster it runs on. `places`: where their fields are written, for what is found wrong later.

    `image_facts`: what the image holds, where a file beside the cluster's says it (NAME.image.json).
    """

    job: Job
    cluster: Cluster
    places: Places = MappingProxyType({})
    image_facts: Facts | None = None


class Named(NamedTuple):
    """A cluster's name or path, where it was said, and the folder at which a path starts."""

    name: str
    place: Place
    beside: Path


class Stage(NamedTuple):
    """A job file with what is set in it. `needs`: the stages from whose run folders it starts.

    `place`: where a pipeline's file names it. `cluster`: the one that goes before the job's own.
    """

    name: str
    source: str
    place: Place | None
    settings: tuple[Setting, ...]
    needs: tuple[str, ...]
    cluster: Named | None
    reader: Reader


class Stages(NamedTuple):
    """A pipeline's stages, each after those it needs; of a plain job one, and no `name`."""

    name: str
    stages: tuple[Stage, ...]


def load(path: str, cluster: str | None = None, settings: Sequence[str] = ()) -> Stages:
    """The stages of the job or pipeline at `path`; their jobs are read by `load_stage`.

    Raises SpecError with all problems of a pipeline's file and of the words of `--set`.
    """
    reader, problems = Reader(), list[Problem]()
    given = [setting for word in settings if (setting := _parsed(word, problems))]
    document = _read(reader, files_document.find(path), path, problems)
    named = Named(cluster, Place("--cluster"), Path()) if cluster else None
    if document and "pipeline" in document.data:
        stages = _pipeline(document, given, named, reader, problems)
        if stages and not problems:
            return stages
    elif document is None and named:
        _cluster_document(named, reader, problems)
    elif not problems:
        return Stages("", (Stage("", path, None, tuple(given), (), named, reader),))
    raise _refusal(problems)


def _pipeline(
    document: Document, given: list[Setting], named: Named | None, reader: Reader, problems: list[Problem]
) -> Stages | None:
    valid = validate(document, files_pipeline.Pipeline, problems)
    problems += files_pipeline.problems(document)
    if valid is None:
        return None
    shares = _shares(given, list(valid.pipeline), problems)
    folder = Path(document.source).parent
    if named is None and valid.cluster is not None:
        named = Named(valid.cluster, document.place(("cluster",)), folder)
    stages = [
        Stage(
            name=name,
            source=str(folder / entry.job),
            place=document.place(("pipeline", name, "job")),
            settings=(*files_pipeline.stage_settings(document, name, entry.set), *shares[name]),
            needs=tuple(files_pipeline.references(entry.set)),
            cluster=named,
            reader=reader,
        )
        for name, entry in valid.pipeline.items()
    ]
    return Stages(valid.name, tuple(stages))


def _shares(given: Iterable[Setting], names: list[str], problems: list[Problem]) -> dict[str, list[Setting]]:
    """Stage → its share of the command line's `--set`: `sft.args.lr=1` is the stage's, `cluster.…` everybody's."""
    shares: dict[str, list[Setting]] = {name: [] for name in names}
    for setting in given:
        first, *rest = setting.keys
        if first == "cluster" and rest:
            for share in shares.values():
                share.append(setting)
        elif first in shares and rest:
            shares[first].append(setting.below(first))
        else:
            meant = f"{names[0]}.{'.'.join(setting.keys)}"
            hint = f"start with a stage ({', '.join(names)}) or with cluster, such as {meant}"
            problems.append(Problem("which stage?", hint, setting.place))
    return shares


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
        job = validate(document, Job, problems)
        own = document.data.get("cluster")
        if named is None and own is not None and not isinstance(own, (bool, dict, list)):
            named = Named(str(own), document.place(("cluster",)), Path(stage.source).parent)
        elif named is None and own is None:
            hint = f"add `cluster:` to the job, or --cluster NAME ({', '.join(cluster_names())})"
            problems.append(Problem("no cluster is named", hint, Place(stage.source, 1, 1)))
    site = _cluster_document(named, stage.reader, problems) if named else None
    if site:
        for setting in filter(_is_for_cluster, stage.settings):
            files_settings.apply(site, setting.below("cluster"))
        cluster = validate(site, Cluster, problems)
        facts = _image_facts(site, problems)
    if document is None or site is None or job is None or cluster is None or problems:
        raise _refusal(problems)
    return Loaded(job, cluster, {"job": document.places, "cluster": site.places}, facts)


def cluster_names() -> list[str]:
    """The clusters that ship with the project."""
    return sorted(p.stem for p in (ROOT / "jobs" / "clusters").glob("*.yaml"))


def _parsed(word: str, problems: list[Problem]) -> Setting | None:
    try:
        return files_settings.parse(word)
    except SpecError as error:
        problems += error.problems
        return None


def _is_for_cluster(setting: Setting) -> bool:
    return setting.keys[0] == "cluster" and len(setting.keys) > 1


def _refusal(problems: list[Problem]) -> SpecError:
    return SpecError(*sorted(problems, key=lambda p: p.place or Place("")))


def _read(reader: Reader, path: Path, source: str, problems: list[Problem]) -> Document | None:
    try:
        return reader.read(path, source)
    except SpecError as error:
        problems += error.problems
        return None


def _job_document(stage: Stage, problems: list[Problem]) -> Document | None:
    path = files_document.find(stage.source)
    if stage.place and not files_document.exists(path):
        problems.append(Problem(f"there is no job file {stage.source}", "check the path", stage.place))
        return None
    document = _read(stage.reader, path, stage.source, problems)
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
    return _read(reader, path, source, problems)


def _image_facts(site: Document, problems: list[Problem]) -> Facts | None:
    try:
        return images_facts.beside(site.path, site.source)
    except SpecError as error:
        problems += error.problems
        return None

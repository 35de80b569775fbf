"""A pipeline's file: its mistakes and its stages' where they are written, and values as they were written."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import LauncherError, SpecError
from launcher.files import load, pipeline
from launcher.planning import plan
from launcher.submission import pipelines
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from launcher.files.load import Loaded
    from launcher.files.stages import Stage

JOB = "name: {name}\ncluster: here.yaml\nmodel: byte-gpt\nbatch: {{micro: 1}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three jobs and their cluster."""
    (tmp_path / "here.yaml").write_text(samples.CLUSTER)
    for name in "abc":
        (tmp_path / f"{name}.yaml").write_text(JOB.format(name=name))
    return tmp_path


def plan_of(stage: Stage, folders: Mapping[str, str]) -> plan.Plan:
    return plan.make(load.load_stage(stage, folders), samples.SITE)


def planned(folder: Path, text: str, *words: str, cluster: str | None = None) -> dict[str, plan.Plan]:
    path = folder / "p.yaml"
    path.write_text(text)
    return pipelines.plan_all(load.load(str(path), cluster, words), plan_of, "")


def problems(folder: Path, text: str, *words: str, cluster: str | None = None) -> list[str]:
    with pytest.raises(LauncherError) as caught:
        planned(folder, text, *words, cluster=cluster)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def loaded(folder: Path, text: str, *words: str) -> dict[str, Loaded]:
    path = folder / "p.yaml"
    path.write_text(text)
    stages = load.load(str(path), None, words)
    return {stage.name: load.load_stage(stage, {"a": "/runs/a-1"}) for stage in stages.stages}


def test_every_mistake_of_a_file_is_said_at_once(folder: Path) -> None:
    text = (
        "name: Bad\nclusters: x\npipeline:\n  a: {job: a.yaml, sets: {}}\n  b: {}\n"
        "  c: {job: c.yaml, set: {model: $d/x, '.': 1}}\n"
        "  d: {job: d.yaml, set: 3}\n  A: {job: a.yaml}\n"
    )
    assert [line.split("; ")[0] for line in problems(folder, text)] == [
        "p.yaml:1:1: name: 'Bad' is not a valid name",
        "p.yaml:2:1: unknown key 'clusters'",
        "p.yaml:4:20: unknown key 'pipeline.a.sets'",
        "p.yaml:5:3: pipeline.b.job is missing",
        "p.yaml:6:26: stage c needs $d, which is no stage before it",
        "p.yaml:6:39: set: '.' is no key path",
        "p.yaml:7:20: pipeline.d.set: `key: value` lines are expected, not 3",
        "p.yaml:8:3: pipeline: 'A' is not a valid name",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: p\npipeline: {}\n", "p.yaml:2:1: pipeline: there are no stages"),
        ("name: p\npipeline:\n", "p.yaml:2:1: pipeline: `key: value` lines are expected, not null"),
        (f"name: {'p' * 300}\npipeline: {{a: {{job: a.yaml}}}}\n", "p.yaml:1:1: name: 'ppp"),
        (f"name: p\npipeline: {{{'a' * 41}: {{job: a.yaml}}}}\n", "p.yaml:2:12: pipeline: 'aaa"),
        (
            "name: p\npipeline: {cluster: {job: a.yaml}}\n",
            "p.yaml:2:1: pipeline: no stage can be called 'cluster'",
        ),
        (
            "name: p\nnodes: 2\npipeline: {a: {job: a.yaml}}\n",
            "p.yaml:2:1: unknown key 'nodes'; it belongs in the job",
        ),
        ("name: p\ncluster: nope\npipeline: {a: {job: a.yaml}}\n", "p.yaml:2:1: unknown cluster 'nope'"),
        (
            "name: p\ncluster: no.yaml\npipeline: {a: {job: a.yaml}}\n",
            "p.yaml:2:1: there is no cluster file no.yaml; a path starts at the folder of the file that names it",
        ),
        (
            "name: p\npipeline: {a: {job: no.yaml}}\n",
            "p.yaml:2:16: there is no job file no.yaml; check the path",
        ),
        (
            "name: p\npipeline: {a: {job: p.yaml}}\n",
            "p.yaml:2:16: p.yaml is a pipeline, and a stage is a job",
        ),
        (
            "name: p\npipeline: {a: {job: a.yaml, set: {nodez: 2}}}\n",
            "p.yaml:2:35: unknown key 'nodez'; did you mean 'nodes'?",
        ),
        (
            "name: p\npipeline: {a: {job: a.yaml, set: {args: {lr: fast}}}}\n",
            "p.yaml:2:42: args.lr: a number above 0 is expected, not 'fast'",
        ),
        (
            "name: p\npipeline: {a: {job: a.yaml, set: {args.x=y: 1}}}\n",
            "p.yaml:2:35: args.x=y is not an option's name",
        ),
    ],
)
def test_a_mistake_is_where_it_is_written(text: str, message: str, folder: Path) -> None:
    (found,) = problems(folder, text)
    assert found.startswith(message)


def test_all_bad_stages_are_said_at_once(folder: Path) -> None:
    (folder / "b.yaml").write_text(JOB.format(name="b") + "walltime: soon\n")
    text = (
        "name: p\npipeline:\n  a: {job: no.yaml}\n  b: {job: b.yaml, set: {model: $a/export}}\n"
        "  c: {job: c.yaml, set: {model: $b/export, batch.micro: 0}}\n  d: {job: c.yaml, set: {batch.global: 3}}\n"
    )
    found = problems(folder, text)
    assert [line.split("; ")[0] for line in found] == [
        "p.yaml:3:7: there is no job file no.yaml",
        "b.yaml:5:1: walltime: 'soon' is not a duration",
        "p.yaml:5:44: batch.micro: must be at least 1, not 0",
        "p.yaml:6:26: batch.global 3 does not divide by micro 1 × world size 2 = 2",
    ]


@pytest.mark.parametrize("key", ["'pipeline':", '"pipeline":', "pipeline :"])
def test_a_pipeline_is_one_however_its_key_is_written(key: str, folder: Path) -> None:
    assert list(planned(folder, f"name: p\n{key}\n  a: {{job: a.yaml}}\n")) == ["a"]
    assert list(planned(folder, f"{{name: p, {key} {{a: {{job: a.yaml}}}}}}\n")) == ["a"]


def test_a_line_of_a_text_makes_no_pipeline(folder: Path) -> None:
    text = JOB.format(name="a") + 'env: {A: "x\npipeline: b"}\n'
    assert list(planned(folder, text)) == [""]


def test_values_keep_their_kind_and_their_written_form(folder: Path) -> None:
    (folder / "here.yaml").write_text(
        samples.CLUSTER + "slurm: {sbatch: {reservation: 2024_05, wckey: 007}}\n"
    )
    stages = loaded(
        folder,
        "name: p\npipeline:\n  a: {job: a.yaml}\n"
        "  b: {job: b.yaml, set: {workload: x.py, env: {A: 007, B: 1.50, C: 1_000, D: $a/x, E: $$5},"
        " args: {f: 1.50, g: 1_000, on: true, data: ['a $$ b', \"it's\"]}}}\n",
        "b.env.F=0x10",
    )
    job = stages["b"].job
    assert {name: v.value for name, v in job.env.items()} == {
        **{"A": "007", "B": "1.50", "C": "1_000", "D": "/runs/a-1/x", "E": "$5", "F": "0x10"}
    }
    assert job.args == {"f": 1.5, "g": 1000, "on": True, "data": ["a $ b", "it's"]}
    assert [str(job.args[key]) for key in "fg"] == ["1.50", "1_000"]


def test_a_setting_of_the_command_line_names_its_stage(folder: Path) -> None:
    text = "name: p\npipeline: {a: {job: a.yaml}, b: {job: b.yaml}}\n"
    plans = planned(folder, text, "b.nodes=2", "cluster.slots=1")
    assert [(p.nodes, p.slots) for p in plans.values()] == [(1, 1), (2, 1)]
    assert problems(folder, text, "nodes=2", "c.nodes=2", "b.nodez=2", "=1") == [
        "--set =1: expected key.path=value; for example --set batch.micro=2",
        "--set c.nodes=2: a setting of a pipeline starts with its stage; "
        "such as a.c.nodes (stages: a, b; cluster.… is for all of them)",
        "--set nodes=2: a setting of a pipeline starts with its stage; "
        "such as a.nodes (stages: a, b; cluster.… is for all of them)",
    ]
    assert problems(folder, text, "b.nodez=2") == [
        "--set b.nodez=2: unknown key 'nodez'; did you mean 'nodes'?"
    ]


def test_the_clusters_of_the_option_and_the_file_go_before_the_jobs_own(folder: Path) -> None:
    (folder / "there.yaml").write_text("slots: 3\n")
    text = "name: p\ncluster: there.yaml\npipeline: {a: {job: a.yaml}}\n"
    assert planned(folder, text)["a"].slots == 3
    assert planned(folder, text, cluster=str(folder / "here.yaml"))["a"].slots == 2


def test_a_pipeline_comes_through_a_pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    os.mkfifo(folder / "pipe")
    text = f"name: p\npipeline: {{a: {{job: {folder}/a.yaml}}}}\n"
    writer = threading.Thread(target=(folder / "pipe").write_text, args=(text,))
    writer.start()
    assert list(pipelines.plan_all(load.load("pipe"), plan_of, "")) == ["a"]
    writer.join()


@pytest.mark.parametrize(
    ("value", "stages"),
    [("$a", ["a"]), ("${a}+$b$a", ["a", "b"]), ("$$a", []), (["$a", {"x": "$c"}], ["a", "c"]), (5, [])],
)
def test_references(value: Any, stages: Sequence[str]) -> None:
    assert pipeline.references(value) == stages


def test_mixed_problems_are_those_of_bad_files(folder: Path) -> None:
    text = "name: p\npipeline: {a: {job: a.yaml, set: {batch.global: 3}}, b: {job: no.yaml}}\n"
    with pytest.raises(SpecError):
        planned(folder, text)

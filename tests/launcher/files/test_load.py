"""From files and --set to a Job and a Cluster: every field can be reached, and every problem has a place."""

from __future__ import annotations

import dataclasses
import typing
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from launcher.errors import SpecError
from launcher.files import cluster as files_cluster
from launcher.files import job as files_job
from launcher.files import validation
from tests import samples

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Files in which every part that has no default is there, so that each of its fields can be set alone.
JOB = """
name: demo
batch: {micro: 1, global: 2, accumulation: 1}
nodes: {min: 1, max: 4}
checkpoint: {resume: a, local: {}}
deepspeed: {preset: zero1}
env: {PLAIN: {value: a}, SECRET: {secret: a, key: a}}
"""
CLUSTER = """
slots: 2
gpu: {name: a, memory: 1GB, capability: 7.5}
gpu_hour: {price: 1}
nvme: {path: /a, size: 1TB}
env: {PLAIN: {value: a}, SECRET: {secret: a, key: a}}
mounts: {/a: {host: /a, claim: a}}
kubernetes: {topology: {label: a/b}, leader: {service_account: a}}
"""
# What a field may hold, what most take first; the first that is valid and is not there already is set.
VALUES = [
    *(
        "3",
        "true",
        "/b",
        "{seed: 3}",
        "64GB",
        "b",
        "[b]",
        "2h",
        "25",
        "[{command: [b]}]",
        "0.18",
        "false",
        "zero3",
        "mine.py",
    ),
    *(
        "tcp",
        "roce",
        "h100-80gb",
        "a/c",
        "s3://b",
        "8.6",
        "9400",
        "EUR",
        "file:///b",
        "[3]",
        "{B: b}",
        "{b: b}",
        "{/b: /b}",
    ),
    *("{b/c: 3}", "[{operator: Exists}]", "{nodeAffinity: {}}", "{spec: {}}"),
]


def load_text(
    folder: Path, job: str, cluster: str, *settings: str
) -> tuple[files_job.Job, files_cluster.Cluster]:
    (folder / "job.yaml").write_text(job, encoding="utf-8")
    (folder / "here.yaml").write_text(cluster, encoding="utf-8")
    loaded = samples.loaded(str(folder / "job.yaml"), str(folder / "here.yaml"), settings)
    return loaded.job, loaded.cluster


def problems(folder: Path, job: str, cluster: str = samples.CLUSTER, *settings: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_text(folder, job, cluster, *settings)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def fields(model: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field, as it is written; the key of a mapping is `*`."""
    for key, field in validation.fields(model).items():
        path, hint = (*above, key), validation.hint_of(model, field.name)
        holders: set[Any] = set(map(typing.get_origin, parts(hint))) & {list, dict}
        inside = models(hint)
        if holders or not inside:
            yield path
        for inner in inside if list not in holders else ():
            yield from fields(inner, (*path, "*") if dict in holders else path)


def models(annotation: Any) -> list[Any]:
    return [t for t in parts(annotation) if isinstance(t, type) and dataclasses.is_dataclass(t)]


def parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in typing.get_args(annotation):
        yield from parts(inner)


def value(model: Any, path: tuple[str, ...]) -> Any:
    """What `model` holds at `path`; None where it lacks what is above."""
    for key in path:
        if model is None:
            break
        name = f"{key}_" if key in ("global", "async") else key
        model = model[key] if isinstance(model, dict) else getattr(model, name)
    return model


def keys(loaded: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """`path` with each key that stands for `*`."""
    if "*" not in path:
        return [path]
    above = path[: path.index("*")]
    return [(*above, key, *path[len(above) + 1 :]) for key in value(loaded, above)]


def choices(model: Any, path: tuple[str, ...]) -> list[str]:
    """The words of a Literal."""
    annotation: Any = model
    for key in path:
        inside = models(annotation)
        if inside and key != "*":
            annotation = validation.hint_of(inside[0], validation.fields(inside[0])[key].name)
    literals = [t for t in parts(annotation) if typing.get_origin(t) is typing.Literal]
    return [str(word) for literal in literals for word in typing.get_args(literal)]


FIELDS = [
    *((files_job.Job, path) for path in fields(files_job.Job)),
    *((files_cluster.Cluster, path) for path in fields(files_cluster.Cluster)),
]


def likely(words: list[str], current: Any) -> list[str]:
    """The words, first those that are of the kind of the value that is there."""
    kinds = {int: (int, float), str: (str,), tuple: (list,), dict: (dict,)}
    kind = kinds.get(type(current), (dict, list))
    return sorted(words, key=lambda word: not isinstance(yaml.safe_load(word), kind))


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[files_job.Job, files_cluster.Cluster]:
    return load_text(tmp_path_factory.mktemp("before"), JOB, CLUSTER)


@pytest.mark.parametrize(
    ("model", "path"), FIELDS, ids=[f"{model.__name__.lower()}.{'.'.join(path)}" for model, path in FIELDS]
)
@pytest.mark.heavy
def test_set_reaches_every_field(model: Any, path: tuple[str, ...], before: Any, tmp_path: Path) -> None:
    which, prefix = (0, "") if model is files_job.Job else (1, "cluster.")
    for written in keys(before[which], path):
        for word in [*choices(model, path), *likely(VALUES, value(before[which], written))]:
            try:
                after = load_text(tmp_path, JOB, CLUSTER, f"{prefix}{'.'.join(written)}={word}")
            except SpecError:
                continue
            if value(after[which], written) != value(before[which], written):
                assert after[1 - which] == before[1 - which]
                return
    pytest.fail("no value of VALUES can be set here: add one that is valid")


def test_there_are_fields() -> None:
    assert len(FIELDS) > 60


# Text


def test_numbers_reach_text_as_they_were_written(tmp_path: Path) -> None:
    job, cluster = load_text(
        tmp_path,
        samples.JOB
        + "env: {A: 1.50, B: 1e3, C: 007, D: {value: 0x10}, E: 2024-01-01}\nargs: {tokenizer: 1.50}\n",
        samples.CLUSTER + "slurm: {account: 00123}\nenv: {F: 1_0}\n",
        "env.G=3.10",
    )
    assert {name: variable.value for name, variable in job.env.items()} == {
        "A": "1.50",
        "B": "1e3",
        "C": "007",
        "D": "0x10",
        "E": "2024-01-01",
        "G": "3.10",
    }
    assert cluster.slurm.account == "00123"
    assert cluster.env["F"].value == "1_0"


def test_short_forms(tmp_path: Path) -> None:
    job, cluster = load_text(
        tmp_path,
        samples.JOB + "deepspeed: zero3\nenv: {A: a}\nwalltime: 1d12h\n",
        samples.CLUSTER + "mounts: {/a: /b}\nmemory: 64GiB\n",
    )
    assert job.deepspeed.preset == "zero3"
    assert job.env["A"].value == "a"
    assert job.walltime == 36 * 3600
    assert cluster.mounts["/a"].host == "/b"
    assert cluster.memory == 64 * 2**30


# Where things are found


def test_a_job_names_its_cluster_by_a_path_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(samples.JOB)
    (tmp_path / "jobs" / "here.yaml").write_text(samples.CLUSTER)
    monkeypatch.chdir(tmp_path)
    assert samples.loaded("jobs/job.yaml").cluster.slots == 2


def test_the_option_names_a_path_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.yaml").write_text(samples.JOB)
    (tmp_path / "there.yaml").write_text("slots: 7\n")
    monkeypatch.chdir(tmp_path)
    assert samples.loaded("jobs/job.yaml", "there.yaml").cluster.slots == 7
    assert samples.loaded("jobs/job.yaml", "laptop").cluster.fabric == "loopback"


def test_jobs_that_ship_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert samples.loaded("jobs/quickstart.yaml").job.name == "quickstart"


def test_set_can_name_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(samples.JOB)
    assert samples.loaded(str(tmp_path / "job.yaml"), None, ["cluster=laptop"]).cluster.fabric == "loopback"
    with pytest.raises(
        SpecError, match=r"^--set cluster=labtop: unknown cluster 'labtop'; did you mean 'laptop'\?$"
    ):
        samples.loaded(str(tmp_path / "job.yaml"), None, ["cluster=labtop"])


# Problems


def test_both_files_and_the_settings_are_checked_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "name: Demo\nbatch:\n  micro: 0\nenv:\n  A-B: 1\n",
        "slots: 2\nmounts:\n  a: /a\n",
        "nodes=two",
        "cluster.fabric=infinband",
    )
    assert [line.split("; ")[0] for line in found] == [
        "--set cluster.fabric=infinband: unknown fabric 'infinband'",
        "--set nodes=two: nodes: a whole number is expected, not 'two'",
        "here.yaml:3:3: mounts: 'a' is not an absolute path",
        "job.yaml:1:1: name: 'Demo' is not a valid name",
        "job.yaml:3:3: batch.micro: must be at least 1, not 0",
        "job.yaml:5:3: env: 'A-B' is not a valid name",
    ]


def test_places_count_from_one_and_in_characters(tmp_path: Path) -> None:
    assert problems(tmp_path, samples.JOB + "env: {Ä: '😀', B: [1]}\n")[0].startswith(
        "job.yaml:5:7: env: 'Ä' "
    )
    assert problems(tmp_path, samples.JOB + "env: {A: '😀é', B: [1]}\n")[0].startswith("job.yaml:5:16: env.B")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("env: {A: {value: [1]}}", "env.A.value: text is expected, not [1]"),
        ("env: {A: true}", "env.A: true is not text; quote it"),
        ("workload: 1.5", "unknown workload '1.5'; it can be "),
        ("deepspeed: 3", "deepspeed: text is expected, not 3"),
        ("deepspeed: {preset: 3}", "deepspeed.preset: text is expected, not 3"),
        (
            "checkpoint: {every: '5'}",
            "checkpoint.every: a whole number is expected, not '5'; take the quotes away",
        ),
        ("slots: 8", "unknown key 'slots'; it belongs in the cluster file"),
        ("lr: 1e-4", "unknown key 'lr'; options of the workload go below `args:`: args: {lr: …}"),
        (
            "max_steps: 5",
            "unknown key 'max_steps'; options of the workload go below `args:`: args: {max-steps: …}",
        ),
        ("nodes: null", "nodes: a whole number is expected, not null; remove the key to get its default"),
        (
            "workload: mine.py\nargs: {--lr: 1}",
            "args.--lr is not an option's name; write it without dashes in front",
        ),
        ("workload: mine.py\nargs: {'a b': 1}", "args.a b is not an option's name"),
        (
            "workload: mine.py\nargs: {data: [null]}",
            "args.data must be a list of text or numbers, not [null]",
        ),
    ],
)
def test_message(line: str, message: str, tmp_path: Path) -> None:
    (found,) = problems(tmp_path, f"{samples.JOB}{line}\n")
    assert found.startswith(f"job.yaml:{len(samples.JOB.splitlines()) + line.count(chr(10)) + 1}:")
    assert found.partition(": ")[2].startswith(message)


@pytest.mark.parametrize("model", [files_job.Job, files_cluster.Cluster])
def test_every_required_key_is_described_when_it_is_missing(model: Any, tmp_path: Path) -> None:
    empty = "{}\n"
    found = problems(
        tmp_path,
        empty if model is files_job.Job else samples.JOB,
        empty if model is files_cluster.Cluster else "slots: 1\n",
    )
    required = [
        key for key, field in validation.fields(model).items() if field.default is field.default_factory
    ]
    required += ["batch"] if model is files_job.Job else []  # of all workloads but those without steps
    assert sorted(line.split(": ", 1)[1].split(" is missing; ")[0] for line in found) == sorted(required)
    assert all("is missing; add `" in line for line in found)


def test_what_is_missing_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("model: byte-gpt\nbatch: {micro: 1}\n")
    with pytest.raises(SpecError) as caught:
        samples.loaded(str(tmp_path / "job.yaml"))
    messages = [problem.message for problem in caught.value.problems]
    assert messages == ["name is missing", "no cluster is named"]


def test_a_duplicate_key_hides_no_other_problem(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "name: demo\nname: demo\nbatch: {micro: 0}\nwalltime: !x 1h\nnodes: two\n",
        "slots: 0\n",
        "args={lr: 1, lr: 2}",
    )
    assert [line.split("; ")[0] for line in found] == [
        "--set args={lr: 1, lr: 2}: duplicate key 'lr'",
        "here.yaml:1:1: slots: must be at least 1, not 0",
        "job.yaml:2:1: duplicate key 'name'",
        "job.yaml:3:9: batch.micro: must be at least 1, not 0",
        "job.yaml:4:11: the tag !x has no meaning here",
        "job.yaml:5:1: nodes: a whole number is expected, not 'two'",
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batsh.micro=2", "unknown key 'batsh'; did you mean 'batch'?"),
        ("cluster.slurmm.partition=x", "unknown key 'slurmm'; did you mean 'slurm'?"),
        ("restarts.0=1", 'restarts: a whole number is expected, not {"0": 1}'),
        ("checkpoint.evry=1", "unknown key 'checkpoint.evry'; did you mean 'every'?"),
    ],
)
def test_a_mistake_in_a_setting_is_in_the_setting(setting: str, message: str, tmp_path: Path) -> None:
    assert problems(tmp_path, samples.JOB, samples.CLUSTER, setting) == [f"--set {setting}: {message}"]


def test_set_reaches_keys_with_dots(tmp_path: Path) -> None:
    _, cluster = load_text(
        tmp_path,
        samples.JOB,
        samples.CLUSTER,
        'cluster.mounts."/a.b"=/x',
        r"cluster.kubernetes.node_selector.example\.com/gpu=h100",
    )
    assert cluster.mounts["/a.b"].host == "/x"
    assert cluster.kubernetes.node_selector == {"example.com/gpu": "h100"}

"""The JSON Schemas that editors use: up to date, valid, and in agreement with what the launcher takes and refuses."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from launcher import ROOT
from launcher.cli import main
from launcher.errors import SpecError
from launcher.files import cluster, job, pipeline, schema, validation

if TYPE_CHECKING:
    from pathlib import Path

MODELS: dict[str, type] = {
    "job": job.Job,
    "cluster": cluster.Cluster,
    "pipeline": pipeline.Pipeline,
}
KINDS = sorted(path.name.partition(".")[0] for path in (ROOT / "jobs" / "schema").glob("*.schema.json"))
SHIPPED = sorted((ROOT / "jobs").rglob("*.yaml"))

JOB = {"name": "a", "batch": {"micro": 1}}
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("job", {}),
    ("job", {"deepspeed": "zero3"}),
    ("job", {"deepspeed": {"preset": "zero3", "zero_optimization": {"stage3_max_live_parameters": 1e9}}}),
    (
        "job",
        {"env": {"A": "a", "B": 1, "C": 1.5, "D": None, "E": {"value": 1}, "F": {"secret": "f", "key": "g"}}},
    ),
    ("job", {"walltime": "1d12h"}),
    ("job", {"walltime": "48:00:00"}),
    ("job", {"walltime": "2-00:00:00"}),
    ("job", {"batch": {"micro": 1, "global": 8}, "args": {"lr": 0.1, "data": ["a"], "on": True}}),
    ("job", {"model": 7, "checkpoint": {"resume": "a"}}),
    ("cluster", {}),
    ("cluster", {"gpu": "h100-80gb", "memory": "2000GB", "cpus": 8, "hosts": 4}),
    (
        "cluster",
        {"gpu": {"name": "a b", "memory": "24GB", "capability": 8.6, "bf16_tflops": 71, "vendor": "nvidia"}},
    ),
    ("cluster", {"memory": "1.5 TiB", "scratch": "/local/a b"}),
    ("cluster", {"mounts": {"/a": "/b", "/c": {"host": "/d", "readonly": True}, "/e": {"claim": "f"}}}),
    (
        "cluster",
        {
            "slurm": {
                "partition": 5,
                "sbatch": {"constraint": "a", "exclusive": True},
                "setup": ["module load b"],
            }
        },
    ),
    (
        "cluster",
        {"kubernetes": {"topology": "a.b/c", "node_selector": {"a.b/c": "d"}, "resources": {"rdma/ib": 8}}},
    ),
    ("cluster", {"kubernetes": {"topology": {"label": "a.b/c", "required": True}, "wait": "1h"}}),
    (
        "cluster",
        {"kubernetes": {"tolerations": [{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]}},
    ),
]
BAD: list[tuple[str, dict[str, Any]]] = [
    ("job", {"nodse": 2}),
    ("job", {"name": None}),
    ("job", {"name": "Upper"}),
    ("job", {"name": "a" * 41}),
    ("job", {"name": "a-"}),
    ("job", {"batch": {}}),
    ("job", {"batch": {"micro": 0}}),
    ("job", {"batch": {"micro": "1"}}),
    ("job", {"batch": {"micro": 1, "globl": 8}}),
    ("job", {"nodes": 0}),
    ("job", {"nodes": 1.5}),
    ("job", {"nodes": 4097}),
    ("job", {"walltime": 48}),
    ("job", {"walltime": "2 days"}),
    ("job", {"walltime": "48:00"}),
    ("job", {"precision": "fp8"}),
    ("job", {"deepspeed": ["zero3"]}),
    ("job", {"deepspeed": 3}),
    ("job", {"args": ["--lr"]}),
    ("job", {"restarts": -1}),
    ("job", {"checkpoint": {"every": 0}}),
    ("job", {"env": {"A-B": "a"}}),
    ("job", {"env": {"A": ["a"]}}),
    ("job", {"env": {"A": True}}),
    ("job", {"env": {"A": {"secret": "../a"}}}),
    ("job", {"env": {"A": {"secrt": "a"}}}),
    ("cluster", {"gpu": {"name": "a", "memory": 24, "capability": 8.6}}),
    ("cluster", {"gpu": {"memory": "24GB"}}),
    ("cluster", {"slots": 0}),
    ("cluster", {"slots": "8"}),
    ("cluster", {"memory": 80}),
    ("cluster", {"memory": "80 gigs"}),
    ("cluster", {"scratch": "tmp"}),
    ("cluster", {"mounts": {"a": "/a"}}),
    ("cluster", {"mounts": {"/a": 3}}),
    ("cluster", {"mounts": {"/a": {"host": "a"}}}),
    ("cluster", {"mounts": {"/a": {"hots": "/a"}}}),
    ("cluster", {"slurm": {"container": "pixis"}}),
    ("cluster", {"slurm": {"partitoin": "a"}}),
    ("cluster", {"slurm": {"signal_seconds": 5}}),
    ("cluster", {"slurm": {"setup": "module load a"}}),
    ("cluster", {"kubernetes": {"kind": "deployment"}}),
    ("cluster", {"kubernetes": {"tolerations": {"key": "a"}}}),
    ("cluster", {"kubernetes": {"fail_on": [0]}}),
    ("cluster", {"local": {"container": True}}),
]


@cache
def validator(kind: str) -> jsonschema.protocols.Validator:
    text = (ROOT / "jobs" / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def whole(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {**(JOB if kind == "job" else {"slots": 2}), **fields}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_up_to_date(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["schema", kind]) == 0
    kept = (ROOT / "jobs" / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert kept == capsys.readouterr().out, "run `make schema`"


def test_every_kind_of_file_has_its_schema() -> None:
    assert KINDS == ["cluster", "job", "pipeline"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_json_schema_of_2020(kind: str) -> None:
    made = json.loads((ROOT / "jobs" / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8"))
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(made)


@pytest.mark.parametrize("kind", MODELS)
def test_every_field_is_described(kind: str) -> None:
    """An editor shows the description; those without one have a name that says it."""
    made = schema.schema(kind)  # type: ignore[arg-type]
    assert set(made["properties"]) == set(validation.fields(MODELS[kind]))
    bare = {name for name, field in made["properties"].items() if not field.get("description")}
    assert bare <= {"batch", "checkpoint", "slurm", "kubernetes", "local"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_ships_is_valid_and_names_its_schema(path: Path) -> None:
    kind = "cluster" if path.parent.name == "clusters" else "job"
    data = YAML(typ="safe", pure=True).load(path)
    kind = "pipeline" if "pipeline" in data else kind
    first, _, _ = path.read_text(encoding="utf-8").partition("\n")
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == ROOT / "jobs" / "schema" / f"{kind}.schema.json"
    assert [error.message for error in validator(kind).iter_errors(data)] == []


@pytest.mark.parametrize(("kind", "fields"), GOOD, ids=str)
def test_good(kind: str, fields: dict[str, Any]) -> None:
    data = whole(kind, fields)
    validation.build(MODELS[kind], data)
    assert [error.message for error in validator(kind).iter_errors(data)] == []


@pytest.mark.parametrize(("kind", "fields"), BAD, ids=str)
def test_bad(kind: str, fields: dict[str, Any]) -> None:
    data = whole(kind, fields)
    with pytest.raises(SpecError):
        validation.build(MODELS[kind], data)
    assert not validator(kind).is_valid(data)

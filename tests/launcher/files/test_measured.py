"""A measured file beside a cluster file: read whole, or passed over with one message; a plan goes on without it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import Problem
from launcher.files import load, measured
from tests import samples

if TYPE_CHECKING:
    from pathlib import Path


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in samples.measured().items() if k != key}


def matrix(value: Any) -> dict[str, Any]:
    entry = {"type": "fp32", "size": 64, "rate": {**samples.rate(1e9), "value": value}}
    return samples.measured(probe=samples.probed(matrix=[entry]))


BAD = {
    "torn": (json.dumps(samples.measured())[:-300], "not JSON"),
    "empty": ("", "not JSON: Expecting value"),
    "deep": ("[" * 100_000, "not JSON that can be read"),
    "a list": ("[]", "these are no measurements"),
    "older": (json.dumps(samples.measured(format=0)), "it is of format 0, and this launcher reads format 1"),
    "true": (json.dumps(samples.measured(format=True)), "reads format 1"),
    "foreign": (json.dumps(samples.measured(speed=1)), "unknown key 'speed'"),
    "two foreign": (json.dumps(samples.measured(speed=1, weight=2)), "(and 1 more)"),
    "missing": (json.dumps(without("probe")), "probe is missing"),
    "a figure of text": (json.dumps(matrix("fast")), "a number is expected, not 'fast'"),
    "a rate of nothing": (json.dumps(matrix(0)), "must be at least 1, not 0"),
    "not finite": (json.dumps(matrix(float("nan"))), "a finite number is expected"),
    "no hosts": (json.dumps(samples.measured(probe=samples.probed(hosts=[]))), "has no hosts"),
    "another GPU": (
        json.dumps(samples.measured(gpu="h100-80gb")),
        "gpu h100-80gb, and the cluster file says none",
    ),
    "other slots": (json.dumps(samples.measured(slots=8)), "slots 8, and the cluster file says 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_of_no_use_is_told_in_one_message(name: str, tmp_path: Path) -> None:
    text, said = BAD[name]
    path = tmp_path / "x.measured.json"
    path.write_text(text)
    found = measured.beside(path, "x.measured.json", samples.cluster())
    assert isinstance(found, Problem)
    assert said in str(found)
    assert str(found).startswith("x.measured.json")
    assert "\n" not in str(found)
    assert "launcher cluster probe" in found.hint


def test_what_cannot_be_read_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "x.measured.json").mkdir()
    found = measured.beside(tmp_path / "x.measured.json", "x.measured.json", samples.cluster())
    assert isinstance(found, Problem)
    assert "Is a directory" in str(found)
    os.mkfifo(tmp_path / "y.measured.json")
    found = measured.beside(tmp_path / "y.measured.json", "y.measured.json", samples.cluster())
    assert isinstance(found, Problem)
    assert "this is a pipe" in str(found)


def test_a_job_is_loaded_with_what_is_beside_its_cluster(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(samples.JOB)
    (tmp_path / "here.yaml").write_text(samples.CLUSTER)
    assert samples.loaded(str(tmp_path / "job.yaml")).measured is None
    path = load.measured_path(tmp_path / "here.yaml")
    path.write_text(json.dumps(samples.measured()))
    found = samples.loaded(str(tmp_path / "job.yaml")).measured
    assert isinstance(found, measured.Measured)
    assert found.probe.collectives[0].rate.value == samples.probed()["collectives"][0]["rate"]["value"]
    path.write_text("{")
    assert isinstance(samples.loaded(str(tmp_path / "job.yaml")).measured, Problem)

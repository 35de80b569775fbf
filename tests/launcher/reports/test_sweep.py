"""The table of a sweep: the best run first, and a run that is gone hides no other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from launcher.reports import sweep
from launcher.runs.sweeps import Sweep

if TYPE_CHECKING:
    from pathlib import Path


def submitted(runs: Path, name: str, *losses: float) -> None:
    """A run that ended well after steps with these losses."""
    (runs / name).mkdir()
    fields = {"scheduler": "local", "native_id": "1:2", "submitted": 0.0, "nodes": 1, "slots": 1, "place": {}}
    (runs / name / "run.json").write_text(json.dumps({"id": name, **fields}))
    (runs / name / "exit_code").write_text("0\n")
    lines = [json.dumps({"step": n + 1, "loss": loss}) for n, loss in enumerate(losses)]
    (runs / name / "metrics.jsonl").write_text("\n".join([*lines, ""]))


def swept(runs: Path, **settings: list[str]) -> Sweep:
    return Sweep("s-sweep-1", runs / "s-sweep-1", tuple(settings), tuple(map(tuple, settings.values())))


def test_the_best_comes_first_and_a_deleted_run_hides_none(tmp_path: Path) -> None:
    submitted(tmp_path, "a", 3.0, 2.5)
    submitted(tmp_path, "b", 3.0, 0.0)
    results = sweep.results(swept(tmp_path, a=["args.lr=1"], b=["args.lr=2"], gone=["args.lr=3"]))
    assert [(r["run"], r["state"]) for r in results] == [
        ("a", "SUCCEEDED"),
        ("b", "SUCCEEDED"),
        ("gone", "UNKNOWN"),
    ]
    assert results[0]["settings"] == {"args.lr": "1"}
    assert json.loads(sweep.as_json(results)) == results
    head, *rows = sweep.text(results).splitlines()
    assert head.split() == ["args.lr", "STATE", "STEP", "LOSS", "VALIDATION", "TOKENS/S", "RUN"]
    assert [row.split()[:4] for row in rows] == [
        ["2", "SUCCEEDED", "2", "0.0000"],
        ["1", "SUCCEEDED", "2", "2.5000"],
        ["3", "UNKNOWN", "-", "-"],
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"a": []},
        {"a": ["no equals sign"]},
        {"a": ["x=1"], "b": ["y=2", "x=3"]},
        {"..": ["x=1"], "x" * 5000: []},
    ],
)
def test_settings_of_any_shape(settings: dict[str, list[str]], tmp_path: Path) -> None:
    submitted(tmp_path, "a", 1.0)
    submitted(tmp_path, "b", 2.0)
    results = sweep.results(swept(tmp_path, **settings))
    assert len(results) == len(settings)
    assert len(sweep.text(results).splitlines()) == len(settings) + 1


def test_the_validation_loss_decides_where_it_was_measured(tmp_path: Path) -> None:
    submitted(tmp_path, "a", 1.0)
    submitted(tmp_path, "b", 2.0)
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"event": "eval", "step": 1, "loss": 0.5}\n')
    _, first, _ = sweep.text(sweep.results(swept(tmp_path, a=["x=1"], b=["x=2"]))).splitlines()
    assert first.endswith(" b")


def test_of_policies_the_reward_decides(tmp_path: Path) -> None:
    """Its loss is lowest where the answers are worst."""
    for name, reward, loss in (("a", -0.5, 0.01), ("b", 0.75, 0.2)):
        submitted(tmp_path, name)
        line = {"step": 3, "loss": loss, "reward": reward}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    results = sweep.results(swept(tmp_path, a=["x=1"], gone=["x=3"], b=["x=2"]))
    head, *rows = sweep.text(results).splitlines()
    assert head.split() == ["x", "STATE", "STEP", "REWARD", "LOSS", "VALIDATION", "TOKENS/S", "RUN"]
    assert [row.split()[-1] for row in rows] == ["b", "a", "gone"]
    assert rows[0].split()[:5] == ["2", "SUCCEEDED", "3", "0.7500", "0.2000"]


def test_a_validation_loss_that_a_resumed_run_took_back_decides_nothing(tmp_path: Path) -> None:
    submitted(tmp_path, "a", 3.0, 2.0)
    later = [
        {"event": "eval", "step": 2, "loss": 0.5},
        {"event": "start", "step": 1},
        {"step": 2, "loss": 9.0},
    ]
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in later))
    (found,) = sweep.results(swept(tmp_path, a=["x=1"]))
    assert (found["step"], found["loss"], found["eval_loss"]) == (2, 9.0, None)
